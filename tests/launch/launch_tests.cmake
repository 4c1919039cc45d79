foreach(name set_test data_test)
  banyan_unit_test(${name} launch/${name}.c)
  target_link_libraries(${name} PRIVATE banyan_launch)
endforeach()

set(scripts ${CMAKE_CURRENT_LIST_DIR})
add_test(NAME launch_words COMMAND ${scripts}/words.sh $<TARGET_FILE:banyan_program>)
add_test(NAME launch_verbs COMMAND ${scripts}/verbs.sh $<TARGET_FILE:banyan_program>
                                   ${PROJECT_SOURCE_DIR}/configs)
set_tests_properties(launch_words launch_verbs PROPERTIES LABELS smoke TIMEOUT 300)
if(BANYAN_HAS_MPI)
  add_test(NAME launch_ranks COMMAND ${scripts}/ranks.sh $<TARGET_FILE:banyan_program> ${test_mpirun})
  set_tests_properties(launch_ranks PROPERTIES LABELS smoke TIMEOUT 300 PROCESSORS 2)
endif()
