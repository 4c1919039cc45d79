# Simulated clusters: see README.md here. Outside the default set: ctest -L sim. Skipped with a reason
# (77) where SimGrid is missing.
set(sim_program ${PROJECT_BINARY_DIR}/banyan-sim)
foreach(case same model scale)
  add_test(NAME sim_${case} COMMAND ${CMAKE_CURRENT_LIST_DIR}/check.sh ${sim_program} ${case})
  set_tests_properties(sim_${case} PROPERTIES LABELS sim TIMEOUT 300 SKIP_RETURN_CODE 77)
endforeach()
