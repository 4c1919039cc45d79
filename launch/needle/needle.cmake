target_sources(banyan_launch PRIVATE
  launch/compare/measure.c launch/compare/patterns.c launch/compare/picture.c launch/compare/report.c
  launch/heads/repeat.c launch/heads/report.c launch/heads/scores.c
  launch/needle/ask.c launch/needle/cells.c launch/needle/checkpoint.c launch/needle/chosen.c launch/needle/evaluate.c launch/needle/given.c
  launch/needle/graded.c launch/needle/grid.c launch/needle/picture.c launch/needle/predict.c
  launch/needle/prompt.c launch/needle/results.c launch/needle/rules.c launch/needle/setup.c launch/needle/signs.c
  launch/needle/summary.c launch/needle/tasks.c launch/needle/texts.c launch/needle/words.c
  launch/needle/uniform.c)
