# The model runner and the constructed checkpoint.
foreach(name safetensors constructed)
  banyan_unit_test(${name}_test launch/${name}_test.c)
  target_link_libraries(${name}_test PRIVATE banyan_launch)
endforeach()
