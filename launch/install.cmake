# Install: the library, its one header, pkg-config and CMake package files, the program.
include(CMakePackageConfigHelpers)

set(libs -lm ${CMAKE_THREAD_LIBS_INIT})
if(BANYAN_HAS_MPI)
  foreach(lib IN LISTS MPI_C_LIBRARIES)
    list(APPEND libs ${lib})
  endforeach()
endif()
if(OpenMP_C_FOUND)
  list(APPEND libs ${OpenMP_C_FLAGS})
endif()
if(BANYAN_HAS_CUDA)
  list(APPEND libs -L${CUDAToolkit_LIBRARY_DIR} -lcudart_static -ldl -lrt -lpthread)
endif()
if(BANYAN_HAS_NCCL)
  list(APPEND libs ${BANYAN_NCCL_LIBRARY})
endif()
string(JOIN " " BANYAN_PC_LIBS ${libs})
file(RELATIVE_PATH BANYAN_PC_TO_PREFIX /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
configure_file(launch/banyan.pc.in banyan.pc @ONLY)

file(WRITE ${PROJECT_BINARY_DIR}/banyan-config.cmake "include(CMakeFindDependencyMacro)\n")
if(BANYAN_HAS_MPI)
  file(APPEND ${PROJECT_BINARY_DIR}/banyan-config.cmake "find_dependency(MPI COMPONENTS C)\n")
endif()
if(OpenMP_C_FOUND)
  file(APPEND ${PROJECT_BINARY_DIR}/banyan-config.cmake "find_dependency(OpenMP COMPONENTS C)\n")
endif()
if(BANYAN_HAS_CUDA)
  file(APPEND ${PROJECT_BINARY_DIR}/banyan-config.cmake "find_dependency(CUDAToolkit)\n")
endif()
file(APPEND ${PROJECT_BINARY_DIR}/banyan-config.cmake
     "include(\${CMAKE_CURRENT_LIST_DIR}/banyan-targets.cmake)\n")
write_basic_package_version_file(${PROJECT_BINARY_DIR}/banyan-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/banyan)
install(TARGETS banyan EXPORT banyan-targets
        LIBRARY COMPONENT library NAMELINK_COMPONENT development
        ARCHIVE COMPONENT development)
install(EXPORT banyan-targets NAMESPACE banyan:: DESTINATION ${package} COMPONENT development)
install(FILES ${PROJECT_BINARY_DIR}/banyan-config.cmake
              ${PROJECT_BINARY_DIR}/banyan-config-version.cmake DESTINATION ${package}
        COMPONENT development)
install(FILES ${PROJECT_BINARY_DIR}/banyan.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig
        COMPONENT development)
install(FILES banyan.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT development)
if(TARGET banyan_program)
  install(TARGETS banyan_program COMPONENT program)
  install(DIRECTORY configs/ DESTINATION ${CMAKE_INSTALL_DATADIR}/banyan COMPONENT program
          FILES_MATCHING PATTERN "*.txtpb")
  install(FILES launch/banyan.sbatch launch/hostfile.example
          DESTINATION ${CMAKE_INSTALL_DATADIR}/banyan COMPONENT program)
  install(PROGRAMS launch/mpirun-here DESTINATION ${CMAKE_INSTALL_DATADIR}/banyan
          COMPONENT program)
endif()
include(launch/packaging/manuals.cmake)
include(launch/packaging/debian.cmake)
