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
  set(generate ${CMAKE_CURRENT_LIST_DIR}/generate.sh $<TARGET_FILE:banyan_program>
               ${CMAKE_CURRENT_LIST_DIR}/tokenizers)
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

# Every family against a forward pass in plain Python.
find_program(BANYAN_python3 python3)
mark_as_advanced(BANYAN_python3)
if(BANYAN_python3 AND TARGET banyan_program)
  set(forward ${BANYAN_python3} ${CMAKE_CURRENT_LIST_DIR}/forward.py $<TARGET_FILE:banyan_program>)
  add_test(NAME families_forward COMMAND ${forward} none 1)
  set_tests_properties(families_forward PROPERTIES LABELS smoke TIMEOUT 300)
  if(BANYAN_HAS_MPI)
    add_test(NAME families_forward_p3 COMMAND ${forward} ${test_mpirun} 3)
    set_tests_properties(families_forward_p3 PROPERTIES LABELS smoke TIMEOUT 300 PROCESSORS 2)
  endif()
endif()

# Against another implementation. -DBANYAN_REFERENCE_PYTHON names a Python that has torch and
# transformers; without them the test is skipped and says so.
set(BANYAN_REFERENCE_PYTHON python3 CACHE STRING "Python with torch and transformers, for the label reference")
if(BANYAN_HAS_MPI AND TARGET banyan_program)
  add_test(NAME families_reference
    COMMAND ${BANYAN_REFERENCE_PYTHON} ${CMAKE_CURRENT_LIST_DIR}/../reference/families_reference.py
            $<TARGET_FILE:banyan_program> ${test_mpirun})
  set_tests_properties(families_reference PROPERTIES LABELS reference SKIP_RETURN_CODE 77 TIMEOUT 1200)
  add_test(NAME long_reference
    COMMAND ${BANYAN_REFERENCE_PYTHON} ${CMAKE_CURRENT_LIST_DIR}/../reference/long_reference.py
            $<TARGET_FILE:banyan_program> ${test_mpirun} 3)
  set_tests_properties(long_reference PROPERTIES LABELS full SKIP_RETURN_CODE 77 TIMEOUT 900)
endif()
