banyan_unit_test(deal_test dist/deal_test.c)
banyan_unit_test(placement_test dist/placement_test.c)
banyan_unit_test(spec_test dist/spec_test.c)
banyan_unit_test(balance_test dist/balance_test.c)
banyan_unit_test(list_test dist/list_test.c)
banyan_unit_test(memory_test dist/memory_test.c)
banyan_unit_test(plan_test dist/plan_test.c)
banyan_unit_test(links_test dist/links_test.c)
banyan_unit_test(records_test dist/records_test.c)

banyan_test_program(agree_test dist/agree_test.c)
foreach(ranks 2 3 7)
  banyan_mpi_test(agree_test ${ranks})
endforeach()

banyan_test_program(golden_plans dist/golden_plans.c)
add_test(NAME golden_plans
         COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/golden/compare.sh $<TARGET_FILE:golden_plans>)
set_tests_properties(golden_plans PROPERTIES LABELS golden)

# Attention across ranks: each program on one rank and on several, 3 and 7 among them.
foreach(name attend calls evict graded repro steady)
  banyan_unit_test(${name}_test dist/${name}_test.c)
endforeach()
target_link_options(steady_test PRIVATE
  LINKER:--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc
  LINKER:--wrap=posix_memalign,--wrap=mmap)
foreach(ranks 2 3 4 5 7 8)
  banyan_mpi_test(attend_test ${ranks})
endforeach()
foreach(ranks 2 3 4 5 6 7 8)
  banyan_mpi_test(graded_test ${ranks})
endforeach()
foreach(ranks 2 3 4 7 8)
  banyan_mpi_test(repro_test ${ranks})
endforeach()
foreach(ranks 2 3 7)
  banyan_mpi_test(evict_test ${ranks})
  banyan_mpi_test(calls_test ${ranks})
endforeach()
banyan_mpi_test(steady_test 3)
# The job ends with the ranks' own exit code, 7.
if(BANYAN_HAS_MPI)
  banyan_mpi_test(calls_test 3 absent)
  set_tests_properties(calls_test_p3_absent PROPERTIES
    PASS_REGULAR_EXPRESSION "Exit code: +7" FAIL_REGULAR_EXPRESSION "failed;TIMEOUT")
endif()
# What a row sends, planned (alone) and counted (on 8 ranks).
banyan_unit_test(traffic_test dist/traffic_test.c)
banyan_mpi_test(traffic_test 8 counted)
