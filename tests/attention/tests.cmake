banyan_unit_test(dtype_test attention/dtype_test.c)
banyan_unit_test(unpack_test attention/unpack_test.c)
banyan_unit_test(score_test attention/score_test.c)
banyan_unit_test(partial_test attention/partial_test.c)
banyan_unit_test(fixed_test attention/fixed_test.c)
banyan_unit_test(kernels_test attention/kernels_test.c attention/kernel_trial.c)
banyan_unit_test(sums_test attention/sums_test.c attention/kernel_trial.c)
banyan_unit_test(exact_test attention/exact_test.c)
banyan_unit_test(picks_test attention/picks_test.c)
banyan_unit_test(selectors_test attention/selectors_test.c)
banyan_unit_test(retention_test attention/retention_test.c)
banyan_unit_test(rules_test attention/rules_test.c)
if(BANYAN_HAS_EMULATOR)
  banyan_emulated_test(cuda_rows_test attention/cuda_rows_test.c)
endif()
banyan_unit_test(record_test attention/record_test.c)
banyan_unit_test(split_test attention/split_test.c)
banyan_unit_test(spans_test attention/spans_test.c)
banyan_unit_test(tiles_test attention/tiles_test.c)

if(BANYAN_HAS_X86)
  banyan_unit_test(exp2_test attention/exp2_test.c attention/exp2_avx2.c attention/exp2_avx512.c)
  set_source_files_properties(attention/exp2_avx2.c PROPERTIES
                              COMPILE_OPTIONS "${banyan_avx2}")
  set_source_files_properties(attention/exp2_avx512.c PROPERTIES
                              COMPILE_OPTIONS "${banyan_avx512}")
  target_compile_definitions(exp2_test PRIVATE EXP2_X86=1)
elseif(BANYAN_HAS_NEON)
  banyan_unit_test(exp2_test attention/exp2_test.c attention/exp2_neon.c)
  target_compile_definitions(exp2_test PRIVATE EXP2_NEON=1)
endif()

# The kernel that this machine cannot run, under qemu; needs a cross compiler, or is skipped.
if(NOT BANYAN_HAS_NEON AND NOT BANYAN_ASAN)
  add_test(NAME kernels_neon COMMAND ${CMAKE_CURRENT_LIST_DIR}/neon.sh ${PROJECT_SOURCE_DIR}
                                     ${PROJECT_BINARY_DIR}/aarch64 ${CMAKE_GENERATOR})
  set_tests_properties(kernels_neon PROPERTIES LABELS cross SKIP_RETURN_CODE 77 TIMEOUT 300)
endif()

# What a bound on the results does not show: reads past the end of an array. Valgrind 3.19 knows no
# AVX-512 and tells programs so: scalar and avx2 run.
find_program(BANYAN_valgrind valgrind)
mark_as_advanced(BANYAN_valgrind)
if(BANYAN_valgrind AND NOT BANYAN_ASAN)
  add_test(NAME kernels_valgrind COMMAND ${BANYAN_valgrind} -q --error-exitcode=9
                                         $<TARGET_FILE:kernels_test> all 1 40)
  set_tests_properties(kernels_valgrind PROPERTIES LABELS memory TIMEOUT 300)
endif()

# The CUDA kernels, on the emulator.
if(BANYAN_HAS_EMULATOR)
  banyan_emulated_test(cuda_decode_test attention/cuda_decode_test.cc)
  banyan_emulated_test(cuda_prefill_test attention/cuda_prefill_test.cc attention/cuda_trial.cc)
  # Compiled for 8.0, kernels know no waiting for the one ahead: none may be started before its end.
  add_test(NAME cuda_decode_test_code_80 COMMAND cuda_decode_test)
  set_tests_properties(cuda_decode_test_code_80 PROPERTIES LABELS unit TIMEOUT 300
                       ENVIRONMENT "BANYAN_EMU_MODE=lazy;BANYAN_EMU_CODE=80")
  foreach(name pack partials queue)
    banyan_emulated_test(cuda_${name}_test attention/cuda_${name}_test.cu)
  endforeach()
endif()
