add_test(NAME lint_layers
         COMMAND ${CMAKE_COMMAND} -DROOT=${PROJECT_SOURCE_DIR} -P ${CMAKE_CURRENT_SOURCE_DIR}/lint/layers.cmake)
add_test(NAME lint_sizes COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/lint/sizes.sh ${PROJECT_SOURCE_DIR})
add_test(NAME lint_format COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/lint/format.sh ${PROJECT_SOURCE_DIR})
add_test(NAME lint_attributes COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/lint/attributes.sh ${PROJECT_SOURCE_DIR})
set_tests_properties(lint_layers lint_sizes lint_format lint_attributes PROPERTIES LABELS lint)
set_tests_properties(lint_format lint_attributes PROPERTIES SKIP_RETURN_CODE 77)

find_package(Python3 COMPONENTS Interpreter QUIET)
if(BANYAN_HAS_PROGRAMS AND Python3_FOUND)
  add_test(NAME lint_circles COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/lint/circles.py ${PROJECT_BINARY_DIR})
  set_tests_properties(lint_circles PROPERTIES LABELS lint)
endif()
