# The emulator's own tests.
if(NOT BANYAN_HAS_EMULATOR)
  return()
endif()
foreach(name fault number pipeline runtime warp wgmma)
  banyan_emulated_test(emu_${name}_test emu/${name}_test.cu)
endforeach()

# Would they notice a wrong kernel? See README.md here. An hour or more; that all device code is drawn from, and
# that mutants.txt speaks of lines that are there, is seen at once.
find_package(Python3 COMPONENTS Interpreter QUIET)
if(Python3_FOUND)
  add_test(NAME lint_mutants COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/mutate --list)
  set_tests_properties(lint_mutants PROPERTIES LABELS lint)
  add_test(NAME emu_mutate COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/mutate
                                   -DCMAKE_C_COMPILER=${CMAKE_C_COMPILER} -DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER})
  set_tests_properties(emu_mutate PROPERTIES LABELS full TIMEOUT 21600 RUN_SERIAL ON)
endif()
