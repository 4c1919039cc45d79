# The program and its parts; only where the program is built.
if(NOT BANYAN_HAS_PROGRAMS)
  return()
endif()
foreach(part launch model needle text emulated)
  include(${CMAKE_CURRENT_LIST_DIR}/${part}_tests.cmake OPTIONAL)
endforeach()
