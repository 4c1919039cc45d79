# What a GPU is needed for is in tests/gpu/run, in one command. Here: what can be told without one, and
# the programs that run builds.
add_test(NAME gpu_run COMMAND ${CMAKE_CURRENT_LIST_DIR}/run_test.sh)
set_tests_properties(gpu_run PROPERTIES LABELS unit TIMEOUT 60 SKIP_RETURN_CODE 77)
if(NOT BANYAN_HAS_CUDA)
  return()
endif()

# Compiled once more, with the library's own flags, and looked at (label gate).
string(TOUPPER "${CMAKE_BUILD_TYPE}" gate_type)
separate_arguments(gate_flags UNIX_COMMAND "${CMAKE_CUDA_FLAGS} ${CMAKE_CUDA_FLAGS_${gate_type}}")
set(banyan_cuda_code_launch ${banyan_cuda_code_portable})
foreach(part portable hopper launch)
  if(NOT banyan_cuda_${part})
    continue()
  endif()
  add_test(NAME gates_${part} COMMAND ${CMAKE_CURRENT_LIST_DIR}/gates.sh ${CMAKE_CUDA_COMPILER}
           ${PROJECT_SOURCE_DIR} ${banyan_cuda_${part}} -- ${gate_flags}
           ${banyan_cuda_code_${part}} ${banyan_cuda_flags})
  set_tests_properties(gates_${part} PROPERTIES LABELS gate SKIP_RETURN_CODE 77 TIMEOUT 900)
endforeach()

# A library with CUDA in it starts where there is no driver, and says so.
banyan_unit_test(driver_test gpu/driver_test.c)

# The emulator's tests of kernels and caches once more, on the real thing (label gpu), and what bench.py
# calls. In a directory of their own: in this one .cu files are C++.
option(BANYAN_GPU_CHECKS "build the checks that need a GPU" OFF)
if(BANYAN_GPU_CHECKS)
  add_subdirectory(gpu)
endif()
