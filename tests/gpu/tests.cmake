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

# The emulator's tests of kernels and caches once more, on the real thing (label gpu).
option(BANYAN_GPU_CHECKS "build the checks that need a GPU" OFF)
if(BANYAN_GPU_CHECKS)
  add_custom_target(gpu_checks)
  get_property(checks GLOBAL PROPERTY banyan_emulated_tests)
  foreach(check IN LISTS checks)
    get_property(sources GLOBAL PROPERTY banyan_emulated_test_${check})
    if("${sources}" MATCHES "emu/")
      continue() # of the emulator itself
    endif()
    add_executable(gpu_${check} ${sources} oracle.c)
    target_include_directories(gpu_${check} PRIVATE gpu/include ${PROJECT_SOURCE_DIR})
    target_link_libraries(gpu_${check} PRIVATE banyan CUDA::cudart_static m)
    set_target_properties(gpu_${check} PROPERTIES CXX_STANDARD 17 CUDA_ARCHITECTURES "90a")
    add_test(NAME gpu_${check} COMMAND gpu_${check})
    set_tests_properties(gpu_${check} PROPERTIES LABELS gpu TIMEOUT 300 RUN_SERIAL ON)
    add_dependencies(gpu_checks gpu_${check})
  endforeach()

  # For bench.py.
  set_target_properties(banyan PROPERTIES POSITION_INDEPENDENT_CODE ON)
  add_library(banyan_lane SHARED gpu/lane.c)
  target_link_libraries(banyan_lane PRIVATE banyan)
endif()
