# The Python package, in the build: what is in launch/python/banyan, the tables made from banyan.h,
# and a shared libbanyan. `pip install ./launch/python` installs the same by the component python.
find_package(Python3 3.9 COMPONENTS Interpreter)
if(NOT Python3_FOUND)
  return()
endif()

set(package ${PROJECT_BINARY_DIR}/python/banyan)
set(BANYAN_PYTHON_PATH ${PROJECT_BINARY_DIR}/python)
file(GLOB_RECURSE modules RELATIVE ${CMAKE_CURRENT_LIST_DIR}/banyan CONFIGURE_DEPENDS
     ${CMAKE_CURRENT_LIST_DIR}/banyan/*.py)
foreach(module IN LISTS modules)
  configure_file(${CMAKE_CURRENT_LIST_DIR}/banyan/${module} ${package}/${module} COPYONLY)
endforeach()
add_custom_command(
  OUTPUT ${package}/_abi.py
  COMMAND Python3::Interpreter ${CMAKE_CURRENT_LIST_DIR}/abi.py ${PROJECT_SOURCE_DIR}/banyan.h
          ${package}/_abi.py
  DEPENDS ${CMAKE_CURRENT_LIST_DIR}/abi.py ${PROJECT_SOURCE_DIR}/banyan.h VERBATIM)
add_custom_target(banyan_python_tables ALL DEPENDS ${package}/_abi.py)
install(FILES ${package}/_abi.py DESTINATION banyan COMPONENT python EXCLUDE_FROM_ALL)

get_target_property(kind banyan TYPE)
if(kind STREQUAL "SHARED_LIBRARY")
  set_target_properties(banyan PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${package})
  install(TARGETS banyan LIBRARY DESTINATION banyan COMPONENT python EXCLUDE_FROM_ALL
          NAMELINK_SKIP)
else()
  # The static library's objects once more as a shared one, for the tests.
  set_target_properties(banyan PROPERTIES POSITION_INDEPENDENT_CODE ON)
  add_library(banyan_python SHARED ${CMAKE_CURRENT_LIST_DIR}/shared.c)
  target_link_libraries(banyan_python PRIVATE $<LINK_LIBRARY:WHOLE_ARCHIVE,banyan>)
  set_target_properties(banyan_python PROPERTIES OUTPUT_NAME banyan
                                                 LIBRARY_OUTPUT_DIRECTORY ${package})
endif()
