target_sources(banyan_launch PRIVATE
  launch/needle/grid.c launch/needle/picture.c launch/needle/prompt.c launch/needle/results.c)
