# The CUDA toolkit, where there is one: sets BANYAN_HAS_CUDA, and BANYAN_HAS_NCCL where nccl.h and its
# library are there too. libcuda is never linked: a program that is must have a driver to start at all
# (and the toolkit's stub lies where linkers look).
if(BANYAN_CUDA STREQUAL "OFF")
  return()
endif()
include(CheckLanguage)
# Files say themselves for which processors they are compiled; 80 is what nvcc is tried with.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real)
endif()
check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 17)
  find_package(CUDAToolkit 12.5 QUIET)
endif()
if(CUDAToolkit_FOUND)
  set(BANYAN_HAS_CUDA ON)
  find_path(BANYAN_NCCL_INCLUDE nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS} ENV NCCL_HOME PATH_SUFFIXES include)
  find_library(BANYAN_NCCL_LIBRARY NAMES nccl libnccl.so.2
               HINTS ${CUDAToolkit_LIBRARY_DIR} ENV NCCL_HOME PATH_SUFFIXES lib)
  mark_as_advanced(BANYAN_NCCL_INCLUDE BANYAN_NCCL_LIBRARY)
  if(BANYAN_NCCL_INCLUDE AND BANYAN_NCCL_LIBRARY)
    set(BANYAN_HAS_NCCL ON)
  endif()
elseif(BANYAN_CUDA STREQUAL "ON")
  message(FATAL_ERROR "BANYAN_CUDA is ON, but no CUDA toolkit (12.5 or later, with nvcc) was found")
endif()
