# What a GPU is needed for is in tests/gpu/run, in one command. Here: what can be told without one, and
# the programs that run builds.
if(NOT BANYAN_HAS_CUDA)
  return()
endif()

# Compiled for one architecture each, as the library does, and looked at (label gate).
foreach(arch 80 90a)
  set(files ${banyan_cuda_portable})
  if(arch STREQUAL "90a")
    list(APPEND files ${banyan_cuda_hopper})
  endif()
  add_test(NAME gates_sm_${arch} COMMAND ${CMAKE_CURRENT_LIST_DIR}/gates.sh ${CMAKE_CUDA_COMPILER}
                                         ${PROJECT_SOURCE_DIR} ${arch} ${files})
  set_tests_properties(gates_sm_${arch} PROPERTIES LABELS gate SKIP_RETURN_CODE 77 TIMEOUT 900)
endforeach()

# A library with CUDA in it starts where there is no driver, and says so.
banyan_unit_test(driver_test gpu/driver_test.c)

# The emulator's tests of kernels and caches once more, on the real thing (label gpu), and what bench.py
# calls. In a directory of their own: in this one .cu files are C++.
option(BANYAN_GPU_CHECKS "build the checks that need a GPU" OFF)
if(BANYAN_GPU_CHECKS)
  add_subdirectory(gpu)
endif()
