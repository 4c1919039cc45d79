# One more row of each table, in a build of its own: the unit tests pass there, and `banyan list` and help
# show them. Takes minutes. In that build itself: what the rows do.
if(BANYAN_EXTRA_ROWS)
  banyan_unit_test(extra_test extra/extra_test.c)
else()
  add_test(NAME extra_rows COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/extra/build.sh ${PROJECT_SOURCE_DIR}
                                   ${CMAKE_BINARY_DIR}/extra_rows ${CMAKE_COMMAND})
  set_tests_properties(extra_rows PROPERTIES LABELS full TIMEOUT 3600 PROCESSORS 2
                                             SKIP_RETURN_CODE 77)
endif()
