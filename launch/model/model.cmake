# The model runner and the constructed checkpoint, a part of banyan_launch.
target_sources(banyan_launch PRIVATE
  launch/model/attend.c launch/model/codes.c launch/model/constructed.c launch/model/digest.c launch/model/dual.c
  launch/model/exchange.c launch/model/experts.c
  launch/model/description.c launch/model/families.c launch/model/folder.c launch/model/head.c launch/model/heads.c launch/model/hf_config.c
  launch/model/layers.c launch/model/linear.c launch/model/moves.c launch/model/product.c launch/model/rope_frequency.c launch/model/ropes.c launch/model/rotate.c
  launch/model/rows.c launch/model/runner.c launch/model/safetensors.c
  launch/model/safetensors_write.c launch/model/snapshot.c launch/model/tensor.c launch/model/views.c launch/model/weights.c
  launch/model/watch.c launch/model/workspace.c)
banyan_rows(banyan_launch launch/model families family)
banyan_rows(banyan_launch launch/model ropes rope)
# Loops over rows of floats: -O2 alone leaves them scalar.
set_source_files_properties(launch/model/product.c launch/model/rotate.c launch/model/rows.c launch/model/tensor.c
  PROPERTIES COMPILE_OPTIONS -O3)
target_sources(banyan_launch PRIVATE launch/model/finite.c launch/model/graph.c)
set_source_files_properties(launch/model/finite.c PROPERTIES COMPILE_OPTIONS -O3)
