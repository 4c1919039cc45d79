foreach(name set_test data_test)
  banyan_unit_test(${name} launch/${name}.c)
  target_link_libraries(${name} PRIVATE banyan_launch)
endforeach()
