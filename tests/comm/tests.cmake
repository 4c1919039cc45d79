banyan_unit_test(error_test comm/error_test.c)
banyan_unit_test(topology_test comm/topology_test.c)
banyan_unit_test(merge_test comm/merge_test.c)
banyan_unit_test(schedule_test comm/schedule_test.c)

banyan_unit_test(transport_test comm/transport_test.c)
# It starts MPI without mpirun, so with a sanitizer it needs what tests/mpirun sets.
set_tests_properties(transport_test PROPERTIES ENVIRONMENT
  "ASAN_OPTIONS=fast_unwind_on_malloc=0;LSAN_OPTIONS=suppressions=${CMAKE_CURRENT_SOURCE_DIR}/lsan.supp:print_suppressions=0")
banyan_unit_test(comm_test comm/comm_test.c)
banyan_unit_test(exchange_test comm/exchange_test.c)
banyan_unit_test(reduce_test comm/reduce_test.c)
find_package(Threads REQUIRED)
banyan_unit_test(device_test comm/device_test.c comm/local.c comm/stream.c)
target_link_libraries(device_test PRIVATE Threads::Threads)
banyan_mpi_test(transport_test 3)
foreach(ranks 1 2 3 4 7)
  banyan_mpi_test(comm_test ${ranks} ${ranks})
  banyan_mpi_test(exchange_test ${ranks} ${ranks})
  banyan_mpi_test(reduce_test ${ranks} ${ranks})
endforeach()

# The job ends with the ranks' own exit code, 7, which mpirun reports; a failed check ends it with
# another.
if(BANYAN_HAS_MPI)
  banyan_test_program(comm_fault_test comm/comm_fault_test.c)
  foreach(fault longer shorter much_longer much_shorter missing two_missing not_taken split)
    banyan_mpi_test(comm_fault_test 3 ${fault})
    set_tests_properties(comm_fault_test_p3_${fault} PROPERTIES
      PASS_REGULAR_EXPRESSION "Exit code: +7" FAIL_REGULAR_EXPRESSION "failed;TIMEOUT")
  endforeach()
  banyan_test_program(merge_bench comm/merge_bench.c) # no test: prints what merges cost here
  target_link_libraries(merge_bench PRIVATE MPI::MPI_C)
  banyan_test_program(stall_test comm/stall_test.c)
  foreach(merge direct tree butterfly gather allreduce)
    banyan_mpi_test(stall_test 7 stopped ${merge})
    set_tests_properties(stall_test_p7_stopped_${merge} PROPERTIES
      PASS_REGULAR_EXPRESSION "Exit code: +7" FAIL_REGULAR_EXPRESSION "failed;TIMEOUT")
  endforeach()
  banyan_mpi_test(stall_test 3 stopped tree)
  banyan_mpi_test(stall_test 3 ended)
  set_tests_properties(stall_test_p3_stopped_tree stall_test_p3_ended PROPERTIES
    PASS_REGULAR_EXPRESSION "Exit code: +7" FAIL_REGULAR_EXPRESSION "failed;TIMEOUT")
  banyan_mpi_test(stall_test 4 killed tree)
  set_tests_properties(stall_test_p4_killed_tree PROPERTIES
    PASS_REGULAR_EXPRESSION "process rank 2 .*exited on signal 9"
    FAIL_REGULAR_EXPRESSION "failed;TIMEOUT")
  banyan_test_program(header_test comm/header_test.c)
  banyan_test_program(longer_test comm/longer_test.c comm/local.c comm/stream.c)
  target_link_libraries(longer_test PRIVATE Threads::Threads)
  foreach(test header_test longer_test)
    banyan_mpi_test(${test} 2)
    set_tests_properties(${test}_p2 PROPERTIES
      PASS_REGULAR_EXPRESSION "Exit code: +7" FAIL_REGULAR_EXPRESSION "failed;TIMEOUT")
  endforeach()
endif()

# The nccl transport over an NCCL and a CUDA runtime that are none: on machines without GPUs.
if(BANYAN_HAS_MPI)
  banyan_test_program(nccl_test comm/nccl_test.c comm/nccl_runtime.c comm/stream.c emu/nccl/nccl.c
                      ${PROJECT_SOURCE_DIR}/comm/transport_nccl.c)
  target_include_directories(nccl_test BEFORE PRIVATE emu/nccl comm/runtime)
  target_link_libraries(nccl_test PRIVATE MPI::MPI_C Threads::Threads)
  foreach(ranks 1 2 3 4 7)
    banyan_mpi_test(nccl_test ${ranks} ${ranks})
  endforeach()
  foreach(fault missing late error)
    banyan_mpi_test(nccl_test 3 ${fault})
    set_tests_properties(nccl_test_p3_${fault} PROPERTIES
      PASS_REGULAR_EXPRESSION "Exit code: +7" FAIL_REGULAR_EXPRESSION "failed;TIMEOUT")
  endforeach()
endif()
if(BANYAN_HAS_NCCL)
  banyan_unit_test(nccl_device_test comm/nccl_device_test.c)
  banyan_mpi_test(nccl_device_test 2 2)
endif()
if(BANYAN_HAS_EMULATOR)
  banyan_emulated_test(cuda_message_test comm/cuda_message_test.cu comm/local.c comm/local_cuda.c)
endif()
