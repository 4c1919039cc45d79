# The program with `--device cuda` on the emulated GPU: banyan_launch's sources on banyan_emulated, with
# launch/cuda.c, and its products on the host.
banyan_unit_test(device_sides_test launch/device_sides_test.c)
target_link_libraries(device_sides_test PRIVATE banyan_launch)
if(NOT BANYAN_HAS_EMULATOR)
  return()
endif()

add_library(banyan_launch_emulated STATIC launch/emulated_blas.c)
banyan_same_sources(banyan_launch_emulated banyan_launch "launch/cuda")
target_sources(banyan_launch_emulated PRIVATE ${PROJECT_SOURCE_DIR}/launch/cuda.c)
banyan_emulated_sources(banyan_launch_emulated ${PROJECT_SOURCE_DIR}/launch/cuda_steps.cu)
set_target_properties(banyan_launch_emulated PROPERTIES CXX_STANDARD 17 CXX_STANDARD_REQUIRED ON)
get_target_property(definitions banyan_launch COMPILE_DEFINITIONS)
if(definitions)
  target_compile_definitions(banyan_launch_emulated PRIVATE ${definitions})
endif()
add_dependencies(banyan_launch_emulated banyan_launch) # the schema's sources are made there
target_include_directories(banyan_launch_emulated SYSTEM PUBLIC ${PROJECT_BINARY_DIR}/generated)
target_link_libraries(banyan_launch_emulated PUBLIC banyan_emulated m PkgConfig::pc_protobuf
  PkgConfig::pc_libprotobuf-c PkgConfig::pc_openblas PkgConfig::pc_jansson OpenMP::OpenMP_C)

add_executable(device_emulated_test launch/device_sides_test.c)
target_link_libraries(device_emulated_test PRIVATE banyan_launch_emulated)
foreach(mode eager lazy random)
  add_test(NAME device_emulated_${mode} COMMAND device_emulated_test cuda)
  set_tests_properties(device_emulated_${mode} PROPERTIES LABELS unit TIMEOUT 60
                       ENVIRONMENT "BANYAN_EMU_MODE=${mode}")
endforeach()

# Copies of a decoded token.
add_executable(copies_emulated_test launch/copies_emulated_test.c)
target_link_libraries(copies_emulated_test PRIVATE banyan_launch_emulated)
foreach(mode eager lazy random)
  add_test(NAME copies_emulated_${mode} COMMAND copies_emulated_test)
  set_tests_properties(copies_emulated_${mode} PROPERTIES LABELS unit TIMEOUT 120
                       ENVIRONMENT "BANYAN_EMU_MODE=${mode}")
endforeach()
foreach(ranks 2 3)
  banyan_mpi_test(copies_emulated_test ${ranks})
endforeach()

# Verbs as users start them.
add_executable(banyan_emu)
get_target_property(sources banyan_program SOURCES)
foreach(source IN LISTS sources)
  target_sources(banyan_emu PRIVATE ${PROJECT_SOURCE_DIR}/${source})
endforeach()
target_link_libraries(banyan_emu PRIVATE banyan_launch_emulated)
foreach(verb run model scale bench)
  foreach(ranks 1 2 3)
    if((ranks GREATER 1 AND NOT BANYAN_HAS_MPI) OR (ranks GREATER 1 AND verb STREQUAL "bench"))
      continue()
    endif()
    add_test(NAME emulated_${verb}_p${ranks} COMMAND ${scripts}/emulated.sh $<TARGET_FILE:banyan_emu>
                                                     ${test_mpirun} ${ranks} ${verb})
    set_tests_properties(emulated_${verb}_p${ranks} PROPERTIES LABELS smoke TIMEOUT 120 PROCESSORS 2)
  endforeach()
endforeach()

# Every family on the device, against a forward pass in plain Python and the CPU's ids.
if(BANYAN_python3)
  set(forward ${BANYAN_python3} ${scripts}/forward.py $<TARGET_FILE:banyan_emu>)
  add_test(NAME families_emulated COMMAND ${forward} none 1 --cuda)
  set_tests_properties(families_emulated PROPERTIES LABELS smoke TIMEOUT 300)
  if(BANYAN_HAS_MPI)
    add_test(NAME families_emulated_p3 COMMAND ${forward} ${test_mpirun} 3 qwen3 --cuda)
    set_tests_properties(families_emulated_p3 PROPERTIES LABELS smoke TIMEOUT 300 PROCESSORS 2)
  endif()
endif()
