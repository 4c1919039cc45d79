# The kernels of a model's steps need no program.
if(BANYAN_HAS_EMULATOR)
  banyan_emulated_test(cuda_steps_test launch/cuda_steps_test.cu ${PROJECT_SOURCE_DIR}/launch/cuda_steps.cu)
endif()

# The program and its parts; only where the program is built.
if(NOT BANYAN_HAS_PROGRAMS)
  return()
endif()
foreach(part launch model needle text emulated)
  include(${CMAKE_CURRENT_LIST_DIR}/${part}_tests.cmake OPTIONAL)
endforeach()
