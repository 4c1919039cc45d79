foreach(name set_test columns_test data_test file_test machine_test pattern_test)
  banyan_unit_test(${name} launch/${name}.c)
  target_link_libraries(${name} PRIVATE banyan_launch)
endforeach()
# Where a file system has no files without a name.
banyan_unit_test(file_named_test launch/file_test.c ${PROJECT_SOURCE_DIR}/launch/file.c)
target_link_libraries(file_named_test PRIVATE banyan_launch)
target_compile_definitions(file_named_test PRIVATE BANYAN_TEMPORARY_HAS_NAME)

set(scripts ${CMAKE_CURRENT_LIST_DIR})
add_test(NAME launch_words COMMAND ${scripts}/words.sh $<TARGET_FILE:banyan_program> ${BANYAN_HAS_CUDA})
add_test(NAME launch_verbs COMMAND ${scripts}/verbs.sh $<TARGET_FILE:banyan_program>
                                   ${PROJECT_SOURCE_DIR}/configs)
set_tests_properties(launch_words launch_verbs PROPERTIES LABELS smoke TIMEOUT 300)
if(BANYAN_HAS_MPI)
  set(pattern_mpirun ${test_mpirun})
endif()
add_test(NAME launch_pattern COMMAND ${scripts}/pattern.sh $<TARGET_FILE:banyan_program> ${pattern_mpirun})
set_tests_properties(launch_pattern PROPERTIES LABELS smoke TIMEOUT 300 PROCESSORS 2)
if(BANYAN_HAS_MPI)
  add_test(NAME launch_ranks COMMAND ${scripts}/ranks.sh $<TARGET_FILE:banyan_program> ${test_mpirun})
  set_tests_properties(launch_ranks PROPERTIES LABELS smoke TIMEOUT 300 PROCESSORS 2)
  add_test(NAME launch_width COMMAND ${scripts}/width.sh $<TARGET_FILE:banyan_program>
                                     ${PROJECT_SOURCE_DIR}/configs ${test_mpirun})
  set_tests_properties(launch_width PROPERTIES LABELS smoke TIMEOUT 300 PROCESSORS 2)
  add_test(NAME launch_scale COMMAND ${scripts}/scale.sh $<TARGET_FILE:banyan_program> ${test_mpirun})
  set_tests_properties(launch_scale PROPERTIES LABELS smoke TIMEOUT 300 PROCESSORS 2)
  add_test(NAME launch_compare COMMAND ${scripts}/compare.sh $<TARGET_FILE:banyan_program> ${test_mpirun})
  set_tests_properties(launch_compare PROPERTIES LABELS smoke TIMEOUT 300 PROCESSORS 2)
  add_test(NAME launch_peer COMMAND ${scripts}/peer.sh $<TARGET_FILE:banyan_program>)
  set_tests_properties(launch_peer PROPERTIES LABELS smoke TIMEOUT 120 PROCESSORS 2)
  add_test(NAME launch_heads COMMAND ${scripts}/heads.sh $<TARGET_FILE:banyan_program> ${test_mpirun})
  set_tests_properties(launch_heads PROPERTIES LABELS smoke TIMEOUT 300 PROCESSORS 2)
  # All patterns of the table, each cell as predicted. Not 1m: a whole prefill of 2^20 tokens is 1.35e16 operations
  # of this model (6 layers, 8 heads, 128 dims), and half of the patterns have one: ten hours each on 2 cores.
  foreach(tokens 8k 64k)
    add_test(NAME launch_compare_${tokens} COMMAND ${test_mpirun} 4 $<TARGET_FILE:banyan_program> compare
             --tokens ${tokens} --depths 5 --model-dir ${CMAKE_CURRENT_BINARY_DIR}/compared)
    set_tests_properties(launch_compare_${tokens} PROPERTIES LABELS full TIMEOUT 7200 PROCESSORS 2
                         ENVIRONMENT BANYAN_TEST_TIMEOUT=7000)
  endforeach()
  set_tests_properties(launch_compare_8k PROPERTIES LABELS smoke TIMEOUT 300)
  set(snapshot ${scripts}/snapshot.sh $<TARGET_FILE:banyan_program> ${test_mpirun})
  add_test(NAME launch_snapshot COMMAND ${snapshot})
  set_tests_properties(launch_snapshot PROPERTIES LABELS smoke TIMEOUT 300 PROCESSORS 2)
  add_test(NAME launch_snapshot_256k COMMAND ${snapshot} 262144 16384)
  set_tests_properties(launch_snapshot_256k PROPERTIES LABELS full TIMEOUT 3600 PROCESSORS 2
                       ENVIRONMENT BANYAN_TEST_TIMEOUT=3000)
  # One hash: some combinations, and all of them (2 to 3 minutes).
  add_test(NAME one_hash COMMAND ${scripts}/one_hash.sh $<TARGET_FILE:banyan_program> ${test_mpirun}
                                 some 2 3 5 8)
  set_tests_properties(one_hash PROPERTIES LABELS smoke TIMEOUT 300 PROCESSORS 2)
  add_test(NAME one_hash_all COMMAND ${scripts}/one_hash.sh $<TARGET_FILE:banyan_program> ${test_mpirun}
                                     all 1 2 3 4 5 6 7 8 12 16)
  set_tests_properties(one_hash_all PROPERTIES LABELS full TIMEOUT 1800 PROCESSORS 2)
  foreach(ranks 1 2 3 4 5 7 8)
    add_test(NAME oracle_p${ranks} COMMAND ${scripts}/oracle.sh $<TARGET_FILE:banyan_program>
                                           ${test_mpirun} ${ranks})
    set_tests_properties(oracle_p${ranks} PROPERTIES LABELS smoke TIMEOUT 300 PROCESSORS 2)
  endforeach()
endif()
