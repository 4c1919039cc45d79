# The CUDA kernels. They are C++ without its library: programs that link libbanyan need a C linker and
# the CUDA runtime, which is linked statically.
#
#   portable   every GPU from compute capability 8.0 on: code for 8.0 and for 9.0, and PTX of 9.0 for later
#              ones. What is compiled for 8.0 knows nothing of kernels that overlap (ptx.h, launch_wait): a
#              9.0 must never be given it
#   hopper     warpgroup instructions, which run on 9.0 only
set(banyan_cuda_portable attention/cuda/attend_exact.cu attention/cuda/attend_wide.cu attention/cuda/combine.cu attention/cuda/decode.cu attention/cuda/decode_portable.cu
                         attention/cuda/exact_sums.cu attention/cuda/fold.cu attention/cuda/memory.cu attention/cuda/message.cu
                         attention/cuda/pack.cu attention/cuda/partials.cu attention/cuda/passes.cu
                         attention/cuda/prefill_portable.cu attention/cuda/queue.cu attention/cuda/tape.cu)
set(banyan_cuda_hopper attention/cuda/decode_hopper.cu attention/cuda/prefill_hopper.cu)

set(banyan_cuda_code_portable -gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_90,code=sm_90
                              -gencode=arch=compute_90,code=compute_90 --threads=3)
set(banyan_cuda_code_hopper -gencode=arch=compute_90a,code=sm_90a)
# A kernel that spills registers, or whose warpgroup instructions were put in series, is not built.
set(banyan_cuda_flags -Xcompiler=-fno-exceptions,-fno-rtti,-fno-threadsafe-statics
                      -Xptxas=-warn-spills,-Werror)

# Objects go into libbanyan as files: as $<TARGET_OBJECTS:..> they would make CUDA a language of
# whatever links libbanyan, here and in other projects.
foreach(part portable hopper)
  if(NOT banyan_cuda_${part})
    continue()
  endif()
  set(target banyan_cuda_${part})
  add_library(${target} OBJECT ${banyan_cuda_${part}})
  set_target_properties(${target} PROPERTIES CUDA_ARCHITECTURES OFF POSITION_INDEPENDENT_CODE ON)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_options(${target} PRIVATE ${banyan_cuda_code_${part}} ${banyan_cuda_flags})
  add_dependencies(banyan ${target})
  foreach(source IN LISTS banyan_cuda_${part})
    set(object ${PROJECT_BINARY_DIR}/CMakeFiles/${target}.dir/${source}.o)
    set_source_files_properties(${object} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
    target_sources(banyan PRIVATE ${object})
  endforeach()
endforeach()
target_link_libraries(banyan PRIVATE CUDA::cudart_static)
