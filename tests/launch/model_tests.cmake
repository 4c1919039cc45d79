# The model runner and the constructed checkpoint.
foreach(name safetensors constructed families)
  banyan_unit_test(${name}_test launch/${name}_test.c)
  target_link_libraries(${name}_test PRIVATE banyan_launch)
endforeach()
banyan_test_program(model_test launch/model_test.c)
target_link_libraries(model_test PRIVATE banyan_launch)
add_test(NAME model_test COMMAND model_test)
set_tests_properties(model_test PROPERTIES LABELS unit TIMEOUT 300)
foreach(ranks 1 3 4)
  banyan_mpi_test(model_test ${ranks} needle)
endforeach()
foreach(ranks 3 7)
  banyan_mpi_test(model_test ${ranks} work)
endforeach()
banyan_mpi_test(model_test 3 calls)

# As a user starts it.
if(TARGET banyan_program)
  set(generate ${CMAKE_CURRENT_LIST_DIR}/generate.sh $<TARGET_FILE:banyan_program>)
  add_test(NAME generate COMMAND ${generate})
  set_tests_properties(generate PROPERTIES LABELS smoke TIMEOUT 300)
  if(BANYAN_HAS_MPI)
    add_test(NAME checkpoints COMMAND ${CMAKE_CURRENT_LIST_DIR}/checkpoints.sh
                                      $<TARGET_FILE:banyan_program> ${test_mpirun})
    set_tests_properties(checkpoints PROPERTIES LABELS smoke TIMEOUT 300 PROCESSORS 2)
    add_test(NAME generate_p3 COMMAND ${generate} ${test_mpirun})
    set_tests_properties(generate_p3 PROPERTIES LABELS smoke TIMEOUT 300 PROCESSORS 2)
  endif()
endif()

# Against another implementation. -DBANYAN_REFERENCE_PYTHON names a Python that has torch and
# transformers; without them the test is skipped and says so.
set(BANYAN_REFERENCE_PYTHON python3 CACHE STRING "Python with torch and transformers, for the label reference")
if(BANYAN_HAS_MPI AND TARGET banyan_program)
  add_test(NAME llama_reference
    COMMAND ${BANYAN_REFERENCE_PYTHON} ${CMAKE_CURRENT_LIST_DIR}/../reference/llama_reference.py
            $<TARGET_FILE:banyan_program> ${test_mpirun})
  set_tests_properties(llama_reference PROPERTIES LABELS reference SKIP_RETURN_CODE 77 TIMEOUT 600)
endif()
