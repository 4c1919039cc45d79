# The `banyan` program. It needs OpenMP and what Debian calls libprotobuf-dev protobuf-compiler
# libprotobuf-c-dev protobuf-c-compiler libopenblas-dev libjansson-dev; BANYAN_PROGRAMS AUTO builds
# the library alone where one of them is missing, and says so.
if(BANYAN_PROGRAMS STREQUAL "OFF")
  return()
endif()

set(missing "")
find_package(PkgConfig QUIET)
if(PkgConfig_FOUND)
  foreach(module protobuf libprotobuf-c openblas jansson)
    pkg_check_modules(pc_${module} QUIET IMPORTED_TARGET ${module})
    if(NOT pc_${module}_FOUND)
      list(APPEND missing ${module})
    endif()
  endforeach()
else()
  list(APPEND missing pkg-config)
endif()
if(pc_openblas_FOUND) # some build it without LAPACK
  include(CheckFunctionExists)
  set(CMAKE_REQUIRED_LIBRARIES PkgConfig::pc_openblas)
  check_function_exists(dgelsy_ BANYAN_OPENBLAS_HAS_LAPACK)
  unset(CMAKE_REQUIRED_LIBRARIES)
  if(NOT BANYAN_OPENBLAS_HAS_LAPACK)
    list(APPEND missing "LAPACK in OpenBLAS")
  endif()
endif()
foreach(program protoc protoc-gen-c)
  find_program(BANYAN_${program} ${program})
  mark_as_advanced(BANYAN_${program})
  if(NOT BANYAN_${program})
    list(APPEND missing ${program})
  endif()
endforeach()
if(NOT OpenMP_C_FOUND)
  list(APPEND missing OpenMP)
endif()
include(CheckLanguage)
check_language(CXX)
if(NOT CMAKE_CXX_COMPILER)
  list(APPEND missing "a C++ compiler")
endif()
if(missing)
  string(JOIN ", " missing ${missing})
  if(BANYAN_PROGRAMS STREQUAL "ON")
    message(FATAL_ERROR "BANYAN_PROGRAMS is ON, but these are missing: ${missing}")
  endif()
  message(STATUS "The banyan program is not built; missing: ${missing}")
  return()
endif()
enable_language(CXX)
set(CMAKE_CXX_STANDARD 17)
set(BANYAN_HAS_PROGRAMS ON)

# The schema, in C for the program and in C++ for the text format's parser.
set(schema ${PROJECT_SOURCE_DIR}/configs/banyan.proto)
set(generated ${PROJECT_BINARY_DIR}/generated)
set(generated_sources ${generated}/banyan.pb-c.c ${generated}/banyan.pb.cc)
file(MAKE_DIRECTORY ${generated})
add_custom_command(
  OUTPUT ${generated_sources} ${generated}/banyan.pb-c.h ${generated}/banyan.pb.h
  COMMAND ${BANYAN_protoc} --plugin=${BANYAN_protoc-gen-c} --c_out=${generated} --cpp_out=${generated} -I ${PROJECT_SOURCE_DIR}/configs ${schema}
  DEPENDS ${schema} VERBATIM)
set_source_files_properties(${generated_sources} PROPERTIES COMPILE_OPTIONS -w)

# Everything but main: tests link it too.
add_library(banyan_launch STATIC ${generated_sources}
  launch/agree.c launch/append.c launch/blas.c launch/choose.c launch/columns.c launch/command.c launch/config.c
  launch/data.c launch/device.c launch/file.c launch/flags.c launch/help.c launch/ids.c launch/job.c launch/mapped.c
  launch/numbers.c launch/output.c launch/plot.c launch/set.c launch/spec.c launch/textformat.cc launch/watch.c
  launch/memory.c launch/oracle/check.c launch/oracle/choice.c launch/oracle/oracle.c launch/oracle/rows.c
  launch/run/check.c launch/run/report.c launch/run/snapshot.c launch/run/steps.c)
target_sources(banyan_launch PRIVATE launch/json_text.c)
target_sources(banyan_launch PRIVATE
  launch/machine/ceilings.c launch/machine/ceilings_device.c launch/machine/figures.c launch/machine/hosts.c
  launch/machine/measure.c launch/machine/peak_scalar.c launch/machine/quiet.c)
target_sources(banyan_launch PRIVATE
  launch/bench/choosing.c launch/bench/device_measure.c launch/bench/device_rows.c launch/bench/device_table.c
  launch/bench/measure.c launch/bench/peer.c launch/bench/ranks.c
  launch/bench/lines.c launch/bench/reproducible.c launch/bench/rows.c launch/bench/sequence.c launch/bench/steady.c)
target_sources(banyan_launch PRIVATE
  launch/scale/aside.c launch/scale/attend.c launch/scale/case.c launch/scale/cases.c
  launch/scale/json.c launch/scale/measure.c launch/scale/methods.c launch/scale/plot.c launch/scale/predict.c
  launch/scale/ring.c launch/scale/ring_parts.c launch/scale/ring_prefill.c launch/scale/table.c)
set_source_files_properties(launch/data.c launch/oracle/choice.c launch/oracle/oracle.c launch/machine/ceilings.c
                            PROPERTIES COMPILE_OPTIONS -O3)
if(BANYAN_HAS_X86)
  target_sources(banyan_launch PRIVATE launch/machine/peak_avx2.c launch/machine/peak_avx512.c
                                       launch/machine/peak_avx512_bf16.c)
  target_compile_definitions(banyan_launch PRIVATE MACHINE_X86=1)
  set_source_files_properties(launch/machine/peak_avx2.c PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma")
  set_source_files_properties(launch/machine/peak_avx512.c PROPERTIES COMPILE_OPTIONS -mavx512f)
  set_source_files_properties(launch/machine/peak_avx512_bf16.c PROPERTIES COMPILE_OPTIONS
                              "-mavx512f;-mavx512bf16")
endif()
target_include_directories(banyan_launch SYSTEM PUBLIC ${generated})
target_link_libraries(banyan_launch PUBLIC banyan m PkgConfig::pc_protobuf
                      PkgConfig::pc_libprotobuf-c PkgConfig::pc_openblas PkgConfig::pc_jansson OpenMP::OpenMP_C)
# The GPU as the programs' device. libcuda is never linked: without a driver the program says so.
if(BANYAN_HAS_CUDA)
  target_sources(banyan_launch PRIVATE launch/cuda.c launch/cuda_blas.c)
  # As an object, like those of libbanyan (attention/cuda/objects.cmake), with the same code and flags.
  set(banyan_cuda_launch launch/cuda_steps.cu)
  add_library(banyan_cuda_launch OBJECT ${banyan_cuda_launch})
  set_target_properties(banyan_cuda_launch PROPERTIES CUDA_ARCHITECTURES OFF POSITION_INDEPENDENT_CODE ON)
  target_include_directories(banyan_cuda_launch PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_options(banyan_cuda_launch PRIVATE ${banyan_cuda_code_portable} ${banyan_cuda_flags})
  add_dependencies(banyan_launch banyan_cuda_launch)
  set(object ${PROJECT_BINARY_DIR}/CMakeFiles/banyan_cuda_launch.dir/launch/cuda_steps.cu.o)
  set_source_files_properties(${object} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
  target_sources(banyan_launch PRIVATE ${object})
  target_link_libraries(banyan_launch PUBLIC CUDA::cublas CUDA::cudart_static)
else()
  target_sources(banyan_launch PRIVATE launch/cuda_none.c)
endif()
target_sources(banyan_launch PRIVATE
  launch/pattern/apply.c launch/pattern/duo.c launch/pattern/fields.c launch/pattern/minference.c launch/pattern/moa.c
  launch/pattern/razor.c launch/pattern/read.c launch/pattern/retrieval.c)
include(launch/model/model.cmake)
include(launch/needle/needle.cmake)
include(launch/text/text.cmake)
include(launch/generate/generate.cmake)

add_executable(banyan_program launch/main.c launch/verbs.c)
banyan_rows(banyan_program launch verbs verb)
target_link_libraries(banyan_program PRIVATE banyan_launch)
set_target_properties(banyan_program PROPERTIES OUTPUT_NAME banyan)
