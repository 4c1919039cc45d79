# A continuation: prompt, choice, end; a part of banyan_launch.
target_sources(banyan_launch PRIVATE
  launch/generate/continuation.c launch/generate/ends.c launch/generate/sample.c launch/generate/wish.c)
