if(NOT BANYAN_ASAN) # an installed sanitized library would force its flags on users
  add_test(NAME package COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/package/run.sh ${PROJECT_BINARY_DIR}
                                ${CMAKE_CURRENT_SOURCE_DIR}/package)
  set_tests_properties(package PROPERTIES LABELS smoke TIMEOUT 120)
endif()
