# The needle evaluation: its parts in one process.
foreach(name needle_parts_test needle_predict_test)
  banyan_unit_test(${name} launch/${name}.c)
  target_link_libraries(${name} PRIVATE banyan_launch)
endforeach()

# And as a user starts it, under mpirun.
if(TARGET banyan_program AND BANYAN_HAS_MPI)
  foreach(case models dense one_rank mixed patterns files s2_64k streaming hole lost border resume together errors
          own_model texts)
    add_test(NAME needle_${case}
             COMMAND ${CMAKE_CURRENT_LIST_DIR}/needle_cases $<TARGET_FILE:banyan_program>
                     ${test_mpirun} ${CMAKE_CURRENT_BINARY_DIR}/needle ${case})
    set_tests_properties(needle_${case} PROPERTIES LABELS smoke TIMEOUT 300 PROCESSORS 2)
    if(case STREQUAL "models")
      set_tests_properties(needle_${case} PROPERTIES FIXTURES_SETUP needle_models)
    else()
      set_tests_properties(needle_${case} PROPERTIES FIXTURES_REQUIRED needle_models)
    endif()
  endforeach()
endif()
