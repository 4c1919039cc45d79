# banyan-sim: the library on simulated clusters, with SimGrid's SMPI (Debian: libsimgrid-dev) as its
# MPI. Nothing else needs SimGrid. What is built here is what smpicc makes of the same sources: SMPI's
# mpi.h and its replacements for clocks and memory, in a shared object that smpirun loads.
set(BANYAN_SIM AUTO CACHE STRING "banyan-sim, decode on simulated clusters (SimGrid): AUTO, ON, OFF")
if(BANYAN_SIM STREQUAL "OFF" OR BANYAN_ASAN)
  return()
endif()
find_program(BANYAN_SMPICC smpicc)
find_path(BANYAN_SMPI_INCLUDE smpi/smpi_helpers.h)
find_library(BANYAN_SIMGRID simgrid)
mark_as_advanced(BANYAN_SMPICC BANYAN_SMPI_INCLUDE BANYAN_SIMGRID)
if(NOT BANYAN_SMPICC OR NOT BANYAN_SMPI_INCLUDE OR NOT BANYAN_SIMGRID)
  if(BANYAN_SIM STREQUAL "ON")
    message(FATAL_ERROR "BANYAN_SIM is ON, but SimGrid's smpicc was not found")
  endif()
  return()
endif()
set(BANYAN_HAS_SIM ON)

# The library's sources, with the mpi transport in any case, and with the kernel that runs anywhere:
# nothing is computed.
get_target_property(sim_sources banyan SOURCES)
list(APPEND sim_sources comm/transport_mpi.c comm/transport_mpi_messages.c
     comm/transport_mpi_watch.c)
list(REMOVE_DUPLICATES sim_sources)
list(FILTER sim_sources EXCLUDE REGEX "kernel_avx|kernel_hopper|_cuda|_nccl|\\.cu$")
add_library(banyan-sim MODULE ${sim_sources} tests/sim/sim.c tests/sim/methods.c tests/sim/ring.c
                              tests/sim/mpi_calls.c tests/sim/report.c)
target_include_directories(banyan-sim PRIVATE ${PROJECT_SOURCE_DIR})
target_include_directories(banyan-sim SYSTEM PRIVATE ${BANYAN_SMPI_INCLUDE} ${BANYAN_SMPI_INCLUDE}/smpi)
target_compile_definitions(banyan-sim PRIVATE BANYAN_HAS_MPI=1 BANYAN_MPI_POSTED=1 BANYAN_VERSION="${PROJECT_VERSION}")
target_compile_options(banyan-sim PRIVATE "SHELL:-include smpi/smpi_helpers.h")
target_link_libraries(banyan-sim PRIVATE ${BANYAN_SIMGRID} m)
target_link_options(banyan-sim PRIVATE LINKER:-z,defs,-Bsymbolic-functions)
set_target_properties(banyan-sim PROPERTIES PREFIX "" SUFFIX "" OUTPUT_NAME banyan-sim)
