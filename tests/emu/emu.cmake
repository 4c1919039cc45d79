# An emulated GPU, for tests: see README.md here. Needs a C++ compiler, no CUDA toolkit.
#
#   banyan_emulator                    CUDA's functions and the vocabulary of the kernels
#   banyan_emulated                    libbanyan with its CUDA kernels, on the emulator; for programs
#                                      that do not link banyan
#   banyan_emulated_program(<name> <sources..>)        a test program with both and the oracle
#   banyan_emulated_test(<name> <sources..>)           .. run in each mode; label unit
set(emu_dir ${CMAKE_CURRENT_LIST_DIR})
include(CheckLanguage)
check_language(CXX)
if(NOT CMAKE_CXX_COMPILER OR BANYAN_ASAN) # a sanitizer follows no fibers
  return()
endif()
enable_language(CXX)
set(BANYAN_HAS_EMULATOR ON)

find_package(Threads REQUIRED)
add_library(banyan_emulator STATIC
  emu/block.cc emu/collective.cc emu/copies.cc emu/event.cc emu/fault.cc emu/fiber.cc
  emu/mbarrier.cc emu/memory.cc emu/mma.cc emu/named.cc emu/proxy.cc emu/runtime.cc
  emu/settings.cc emu/stream.cc emu/transfer.cc emu/wgmma.cc)
set_source_files_properties(emu/mma.cc emu/wgmma.cc PROPERTIES COMPILE_OPTIONS -O3)
set_target_properties(banyan_emulator PROPERTIES CXX_STANDARD 17 CXX_STANDARD_REQUIRED ON)
target_compile_options(banyan_emulator PRIVATE -O2) # a Debug build's tests run it too
# in this order: the vocabulary's headers here go before the product's
target_include_directories(banyan_emulator PUBLIC ${emu_dir}/include ${emu_dir} ${PROJECT_SOURCE_DIR})
target_link_libraries(banyan_emulator PUBLIC Threads::Threads)

# A .cu file as C++: what is asked of the language of a source counts in this folder only.
function(banyan_emulated_sources target)
  foreach(source IN LISTS ARGN)
    target_sources(${target} PRIVATE ${source})
    if(source MATCHES "\\.cu$")
      set_source_files_properties(${source} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS
        "-Wno-unknown-pragmas;-Wno-missing-field-initializers")
    endif()
  endforeach()
endfunction()

# The sources of libbanyan, with the options that they have there.
add_library(banyan_emulated STATIC)
banyan_same_sources(banyan_emulated banyan "kernel_(cuda|hopper)|transport_nccl")
file(GLOB emu_kernels CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/attention/cuda/*.cu)
banyan_emulated_sources(banyan_emulated ${emu_kernels})
# Rows that need CUDA are there with or without a toolkit.
target_sources(banyan_emulated PRIVATE ${PROJECT_SOURCE_DIR}/attention/kernel_cuda.c
                                       ${PROJECT_SOURCE_DIR}/attention/kernel_hopper.c)
target_compile_definitions(banyan_emulated PRIVATE BANYAN_HAS_CUDA=1)
set_target_properties(banyan_emulated PROPERTIES CXX_STANDARD 17 CXX_STANDARD_REQUIRED ON)
get_target_property(emu_definitions banyan COMPILE_DEFINITIONS)
list(FILTER emu_definitions EXCLUDE REGEX "BANYAN_HAS_(CUDA|NCCL)")
target_compile_definitions(banyan_emulated PRIVATE ${emu_definitions})
target_link_libraries(banyan_emulated PUBLIC banyan_emulator m)
if(OpenMP_C_FOUND)
  target_link_libraries(banyan_emulated PRIVATE OpenMP::OpenMP_C)
endif()
if(BANYAN_HAS_MPI)
  target_link_libraries(banyan_emulated PRIVATE MPI::MPI_C)
endif()

function(banyan_emulated_program name)
  add_executable(${name} ${PROJECT_SOURCE_DIR}/tests/oracle.c)
  banyan_emulated_sources(${name} ${ARGN})
  set_target_properties(${name} PROPERTIES CXX_STANDARD 17 CXX_STANDARD_REQUIRED ON)
  target_link_libraries(${name} PRIVATE banyan_emulated)
endfunction()

function(banyan_emulated_test name)
  set_property(GLOBAL APPEND PROPERTY banyan_emulated_tests ${name})
  set_property(GLOBAL PROPERTY banyan_emulated_test_${name} ${ARGN})
  banyan_emulated_program(${name} ${ARGN})
  foreach(mode eager lazy random)
    add_test(NAME ${name}_${mode} COMMAND ${name})
    set_tests_properties(${name}_${mode} PROPERTIES LABELS unit TIMEOUT 300
                         ENVIRONMENT "BANYAN_EMU_MODE=${mode}")
  endforeach()
endfunction()
