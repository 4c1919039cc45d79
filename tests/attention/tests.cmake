banyan_unit_test(dtype_test attention/dtype_test.c)
banyan_unit_test(partial_test attention/partial_test.c)
banyan_unit_test(fixed_test attention/fixed_test.c)
banyan_unit_test(kernels_test attention/kernels_test.c attention/kernel_trial.c)
banyan_unit_test(sums_test attention/sums_test.c attention/kernel_trial.c)
banyan_unit_test(exact_test attention/exact_test.c)
banyan_unit_test(selectors_test attention/selectors_test.c)
banyan_unit_test(retention_test attention/retention_test.c)
banyan_unit_test(rules_test attention/rules_test.c)

if(BANYAN_HAS_X86)
  banyan_unit_test(exp2_test attention/exp2_test.c attention/exp2_avx2.c attention/exp2_avx512.c)
  set_source_files_properties(attention/exp2_avx2.c PROPERTIES
                              COMPILE_OPTIONS "${banyan_avx2}")
  set_source_files_properties(attention/exp2_avx512.c PROPERTIES
                              COMPILE_OPTIONS "${banyan_avx512}")
endif()
