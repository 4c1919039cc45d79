# The program with `--device cuda` on the emulated GPU: banyan_launch's sources on banyan_emulated, with
# launch/cuda.c, and its products on the host.
banyan_unit_test(device_sides_test launch/device_sides_test.c)
target_link_libraries(device_sides_test PRIVATE banyan_launch)
if(NOT BANYAN_HAS_EMULATOR)
  return()
endif()

add_library(banyan_launch_emulated STATIC launch/emulated_blas.c)
get_target_property(sources banyan_launch SOURCES)
list(FILTER sources EXCLUDE REGEX "launch/cuda")
foreach(source IN LISTS sources ITEMS launch/cuda.c)
  cmake_path(ABSOLUTE_PATH source BASE_DIRECTORY ${PROJECT_SOURCE_DIR} OUTPUT_VARIABLE path)
  target_sources(banyan_launch_emulated PRIVATE ${path})
  get_source_file_property(options ${path} TARGET_DIRECTORY banyan_launch COMPILE_OPTIONS)
  if(options)
    set_source_files_properties(${path} PROPERTIES COMPILE_OPTIONS "${options}")
  endif()
endforeach()
get_target_property(definitions banyan_launch COMPILE_DEFINITIONS)
if(definitions)
  target_compile_definitions(banyan_launch_emulated PRIVATE ${definitions})
endif()
add_dependencies(banyan_launch_emulated banyan_launch) # the schema's sources are made there
target_include_directories(banyan_launch_emulated SYSTEM PUBLIC ${PROJECT_BINARY_DIR}/generated)
target_link_libraries(banyan_launch_emulated PUBLIC banyan_emulated m PkgConfig::pc_protobuf
  PkgConfig::pc_libprotobuf-c PkgConfig::pc_openblas PkgConfig::pc_jansson OpenMP::OpenMP_C)

add_executable(device_emulated_test launch/device_sides_test.c)
target_link_libraries(device_emulated_test PRIVATE banyan_launch_emulated)
foreach(mode eager lazy random)
  add_test(NAME device_emulated_${mode} COMMAND device_emulated_test cuda)
  set_tests_properties(device_emulated_${mode} PROPERTIES LABELS unit TIMEOUT 60
                       ENVIRONMENT "BANYAN_EMU_MODE=${mode}")
endforeach()
