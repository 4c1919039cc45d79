# The model runner and the constructed checkpoint, a part of banyan_launch.
target_sources(banyan_launch PRIVATE
  launch/model/codes.c launch/model/constructed.c launch/model/exchange.c launch/model/head.c
  launch/model/hf_config.c launch/model/layers.c launch/model/linear.c launch/model/llama.c
  launch/model/rope.c launch/model/rows.c launch/model/safetensors.c
  launch/model/safetensors_write.c launch/model/tensor.c launch/model/weights.c
  launch/model/workspace.c)
# Loops over rows of floats: -O2 alone leaves them scalar.
set_source_files_properties(launch/model/rope.c launch/model/rows.c launch/model/tensor.c
  PROPERTIES COMPILE_OPTIONS -O3)
