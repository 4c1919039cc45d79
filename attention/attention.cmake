target_sources(banyan PRIVATE attention/choice.c attention/lines.c attention/tally.c attention/dtype.c attention/fixed.c attention/kernels.c attention/partial.c
                              attention/retention.c attention/selection.c attention/selectors.c attention/spans.c attention/strongest.c attention/window.c
                              attention/cuda/plain.c attention/cuda/spans.c attention/cuda/split.c attention/cuda/tiles.c)
# loops over the numbers of a row: worth the vectoriser
set_source_files_properties(attention/choice.c attention/dtype.c attention/fixed.c attention/kernel_scalar.c attention/partial.c
                            PROPERTIES COMPILE_OPTIONS "$<$<NOT:$<CONFIG:Debug>>:-O3>")
banyan_rows(banyan attention selectors select)
banyan_rows(banyan attention kernels kernel)
if(BANYAN_HAS_X86)
  set(banyan_avx2 -mavx2 -mfma -mf16c)
  set(banyan_avx512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma)
  target_sources(banyan PRIVATE attention/kernel_avx512_dot.c)
  set_source_files_properties(attention/kernel_avx2.c PROPERTIES
                              COMPILE_OPTIONS "${banyan_avx2}")
  set_source_files_properties(attention/kernel_avx512.c PROPERTIES
                              COMPILE_OPTIONS "${banyan_avx512}")
  set_source_files_properties(attention/kernel_avx512_dot.c PROPERTIES
                              COMPILE_OPTIONS "${banyan_avx512};-mavx512bf16")
endif()
if(BANYAN_HAS_CUDA)
  include(attention/cuda/objects.cmake)
endif()
