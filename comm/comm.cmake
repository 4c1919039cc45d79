target_sources(banyan PRIVATE
  comm/error.c comm/comm.c comm/comm_split.c comm/transports.c comm/topology.c comm/collectives.c
  comm/merges.c comm/schedule.c comm/exchange.c comm/exchange_run.c comm/exchange_fold.c
  comm/exchange_header.c comm/exchange_round.c comm/device.c comm/reduce.c comm/launcher.c)
banyan_rows(banyan comm merges merge)
banyan_rows(banyan comm transports transport)
if(BANYAN_HAS_MPI)
  target_sources(banyan PRIVATE comm/transport_mpi_messages.c comm/transport_mpi_watch.c)
  target_link_libraries(banyan PRIVATE MPI::MPI_C)
endif()
if(BANYAN_HAS_NCCL)
  set_source_files_properties(comm/transport_nccl.c PROPERTIES INCLUDE_DIRECTORIES
                              "${BANYAN_NCCL_INCLUDE};${CUDAToolkit_INCLUDE_DIRS}")
  target_link_libraries(banyan PRIVATE ${BANYAN_NCCL_LIBRARY} CUDA::cudart_static)
endif()
