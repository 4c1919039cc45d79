# Faults that are done to jobs of ranks on purpose: see README.md here. Needs python3, and mpirun.
find_program(BANYAN_PYTHON3 python3)
mark_as_advanced(BANYAN_PYTHON3)
if(NOT BANYAN_HAS_PROGRAMS OR NOT BANYAN_HAS_MPI OR NOT BANYAN_PYTHON3 OR BANYAN_ASAN OR
   NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
  return()
endif()
add_library(failing MODULE faults/failing.c)
target_link_libraries(failing PRIVATE ${CMAKE_DL_LIBS})

# banyan_campaign(<name> <labels> <seconds> <arguments..>)
function(banyan_campaign name labels seconds)
  add_test(NAME ${name} COMMAND ${BANYAN_PYTHON3} ${CMAKE_CURRENT_SOURCE_DIR}/faults/campaign
                                $<TARGET_FILE:banyan_program> $<TARGET_FILE:failing> ${ARGN})
  set_tests_properties(${name} PROPERTIES LABELS ${labels} TIMEOUT ${seconds} PROCESSORS 2
    SKIP_RETURN_CODE 77 ENVIRONMENT CLUSTER_SWITCH=$<TARGET_FILE:cluster_switch>)
endfunction()

banyan_campaign(faults_campaign full 600 20 1)
banyan_campaign(faults_campaign_all full 5400 200 2 --table)
# One allocation of one rank fails: some of them, those before the ranks have agreed on much, and all.
banyan_campaign(faults_memory smoke 600 --sweep 40 --verb run)
banyan_campaign(faults_memory_early smoke 600 --sweep 13 --first 49 --verb needle)
banyan_campaign(faults_memory_all full 5400 --sweep 1)

# A save that is killed, over an older snapshot: 20 times, and 200.
if(BANYAN_HAS_MPI)
  banyan_test_program(save_steps faults/save_steps.c)
  set(save_kill ${BANYAN_PYTHON3} ${CMAKE_CURRENT_LIST_DIR}/save_kill.py $<TARGET_FILE:save_steps> ${test_mpirun})
  add_test(NAME faults_save_kill COMMAND ${save_kill})
  set_tests_properties(faults_save_kill PROPERTIES LABELS smoke TIMEOUT 300 PROCESSORS 2 SKIP_RETURN_CODE 77)
  add_test(NAME faults_save_kill_200 COMMAND ${save_kill} 200 7)
  set_tests_properties(faults_save_kill_200 PROPERTIES LABELS full TIMEOUT 3600 PROCESSORS 2
                       SKIP_RETURN_CODE 77)
endif()
