# The Python package. What needs neither torch nor numpy always runs; the rest where tests/python/run
# has made its environment.
set(BANYAN_PYTHON_ENV "$ENV{HOME}/.cache/banyan/python" CACHE PATH
    "an environment with torch and transformers, as tests/python/run makes it")
set(BANYAN_SMOLLM "$ENV{HOME}/.cache/banyan/smollm2/model" CACHE PATH "the checkpoint that launch/smollm makes")
if(NOT Python3_FOUND OR BANYAN_ASAN) # a sanitized library needs a sanitized interpreter
  return()
endif()
set(python_env "PYTHONPATH=${BANYAN_PYTHON_PATH}:${CMAKE_CURRENT_SOURCE_DIR}/python"
               "PYTHONDONTWRITEBYTECODE=1")
set(python_tests ${CMAKE_CURRENT_SOURCE_DIR}/python)

# banyan_python_test(<name> <labels> <command..>)
function(banyan_python_test name labels)
  add_test(NAME python_${name} COMMAND ${ARGN})
  set_tests_properties(python_${name} PROPERTIES LABELS "${labels}" TIMEOUT 300
                                                 ENVIRONMENT "${python_env}")
endfunction()

banyan_python_test(abi "unit;python" ${Python3_EXECUTABLE} ${python_tests}/abi_test.py
                   ${PROJECT_SOURCE_DIR} ${CMAKE_C_COMPILER})
banyan_python_test(attend "unit;python" ${Python3_EXECUTABLE} ${python_tests}/attend_test.py)
if(BANYAN_HAS_PROGRAMS)
  banyan_python_test(pattern "unit;python" ${Python3_EXECUTABLE} ${python_tests}/pattern_test.py
                     $<TARGET_FILE:banyan_program>)
endif()
if(BANYAN_HAS_MPI)
  foreach(ranks 3 4)
    banyan_python_test(attend_p${ranks} "mpi;python" ${test_mpirun} ${ranks} ${Python3_EXECUTABLE}
                       ${python_tests}/attend_test.py)
  endforeach()
  banyan_python_test(ends "mpi;python" ${python_tests}/ends_test.sh ${Python3_EXECUTABLE}
                     ${test_mpirun})
endif()

set(venv ${BANYAN_PYTHON_ENV}/bin/python)
if(NOT EXISTS ${venv})
  return()
endif()
list(APPEND python_env "OMP_NUM_THREADS=1" "HF_HUB_OFFLINE=1")
banyan_python_test(arrays "unit;python" ${venv} ${python_tests}/arrays_test.py)
banyan_python_test(call "unit;python" ${venv} ${python_tests}/call_test.py)
banyan_python_test(hf "python" ${venv} ${python_tests}/hf_test.py)
if(BANYAN_HAS_MPI)
  foreach(ranks 3 4)
    banyan_python_test(hf_p${ranks} "mpi;python" ${test_mpirun} ${ranks} ${venv}
                       ${python_tests}/hf_test.py)
  endforeach()
endif()
banyan_python_test(memory "python" ${venv} ${python_tests}/memory_test.py)

# With the trained model of launch/smollm: minutes each.
if(BANYAN_HAS_MPI AND EXISTS ${BANYAN_SMOLLM}/tokenizer_config.json)
  foreach(ranks 1 3)
    banyan_python_test(smollm_p${ranks} "full" ${test_mpirun} ${ranks} ${venv} ${python_tests}/smollm_test.py
                       ${BANYAN_SMOLLM})
  endforeach()
  banyan_python_test(lm_eval "full" ${venv} ${python_tests}/lm_eval_test.py ${BANYAN_SMOLLM} 2)
  set_tests_properties(python_lm_eval PROPERTIES TIMEOUT 5400)
endif()
