# Several hosts on this machine, each a network namespace: see README.md here. Skipped with a reason
# (77) where namespaces are not permitted. Label cluster; those labelled hosts are in the default set.
if(NOT BANYAN_HAS_MPI OR NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
  return()
endif()
set(cluster_dir ${CMAKE_CURRENT_LIST_DIR})
set(cluster ${cluster_dir}/cluster)
add_executable(cluster_switch cluster/switch.c)
banyan_test_program(wire_test cluster/wire_test.c)
banyan_test_program(link_test cluster/link_test.c)

# banyan_cluster_command(<name> <label> <command..>)
function(banyan_cluster_command name label)
  add_test(NAME ${name} COMMAND ${ARGN})
  set_tests_properties(${name} PROPERTIES LABELS ${label} TIMEOUT 300 PROCESSORS 2
    SKIP_RETURN_CODE 77 ENVIRONMENT CLUSTER_SWITCH=$<TARGET_FILE:cluster_switch>)
endfunction()

# banyan_cluster_test(<label> <hosts> <ranks per host> <program> [args..]): an existing program.
function(banyan_cluster_test label hosts ranks program)
  string(JOIN "_" name cluster ${program} ${hosts}x${ranks} ${ARGN})
  banyan_cluster_command(${name} ${label} ${cluster} with ${hosts} ${cluster} mpirun ${ranks}
                         $<TARGET_FILE:${program}> ${ARGN})
endfunction()

# The hosts themselves.
banyan_cluster_command(cluster_ends hosts ${cluster_dir}/ends.sh ${cluster})
banyan_cluster_command(cluster_delay cluster ${cluster} -d 10000 with 2
                       ${cluster} mpirun 1 $<TARGET_FILE:link_test> 10000)
banyan_cluster_command(cluster_rate cluster ${cluster} -r 100mbit with 3
                       ${cluster} mpirun 1 $<TARGET_FILE:link_test> 0 100)
banyan_cluster_command(cluster_delay_and_rate cluster ${cluster} -d 5000 -r 200mbit with 2
                       ${cluster} mpirun 1 $<TARGET_FILE:link_test> 5000 200)
banyan_cluster_command(cluster_join cluster ${cluster} with 2 sh -c
                       "\"$0\" cut h0 all && \"$0\" join h0 all && \"$0\" mpirun 1 \"$1\""
                       ${cluster} $<TARGET_FILE:link_test>)

# Nodes, and bytes on the wire.
banyan_cluster_test(hosts 2 2 wire_test 2)
banyan_cluster_test(cluster 2 1 wire_test 1)
banyan_cluster_test(cluster 3 2 wire_test 2)
banyan_cluster_test(cluster 4 2 wire_test 2)
banyan_cluster_test(cluster 8 1 wire_test 1)
banyan_cluster_command(cluster_wire_test_4x2_by_node cluster ${cluster} with 4 ${cluster} mpirun 2
                       --map-by node $<TARGET_FILE:wire_test> 2 by-node)

# The library's tests: as many ranks, but on several hosts.
banyan_cluster_test(hosts 3 1 comm_test 3 1)
foreach(shape "2;2" "4;1" "8;1" "3;2")
  list(GET shape 0 hosts)
  list(GET shape 1 ranks)
  math(EXPR all "${hosts} * ${ranks}")
  banyan_cluster_test(cluster ${hosts} ${ranks} comm_test ${all} ${ranks})
  banyan_cluster_test(cluster ${hosts} ${ranks} exchange_test ${all})
endforeach()
banyan_cluster_test(cluster 3 1 transport_test)
banyan_cluster_test(cluster 2 1 attend_test)
banyan_cluster_test(cluster 4 1 attend_test)
banyan_cluster_test(cluster 8 1 attend_test mixed)
banyan_cluster_test(cluster 4 2 graded_test)
banyan_cluster_test(cluster 3 1 evict_test)
banyan_cluster_test(cluster 2 2 calls_test)
if(NOT TARGET banyan_program)
  return()
endif()

# Jobs as users start them.
set(program $<TARGET_FILE:banyan_program>)
banyan_cluster_command(cluster_jobs_2x2 hosts ${cluster} with 2
                       ${cluster_dir}/jobs.sh ${cluster} ${program} 2 run needle)
foreach(hosts 2 4 8)
  banyan_cluster_command(cluster_jobs_${hosts}x1 cluster ${cluster} with ${hosts}
                         ${cluster_dir}/jobs.sh ${cluster} ${program} 1 run needle)
endforeach()
banyan_cluster_command(cluster_jobs_4x2 cluster ${cluster} with 4
                       ${cluster_dir}/jobs.sh ${cluster} ${program} 2 run needle)
banyan_cluster_command(cluster_jobs_slow_links cluster ${cluster} -d 500 -r 100mbit with 4
                       ${cluster_dir}/jobs.sh ${cluster} ${program} 1 run needle)

# Reproducible results have one hash on any number of hosts.
foreach(hosts 1 2 4)
  banyan_cluster_command(cluster_one_hash_${hosts} cluster ${cluster} with ${hosts}
                         ${cluster_dir}/../launch/one_hash.sh ${program} ${cluster} some 1 2)
endforeach()

# Ranks and links that fail while all decode.
foreach(fault killed stopped cut unplugged)
  set(label cluster)
  if(fault STREQUAL "stopped")
    set(label hosts)
  endif()
  banyan_cluster_command(cluster_fault_${fault} ${label} ${cluster} with 4
                         ${cluster_dir}/faults.sh ${cluster} ${program} ${fault})
endforeach()

banyan_cluster_command(cluster_slurm cluster ${cluster} with 4 ${cluster_dir}/slurm.sh
                       ${cluster} ${program} ${PROJECT_SOURCE_DIR}/launch/banyan.sbatch)
