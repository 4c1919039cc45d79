banyan_unit_test(error_test comm/error_test.c)
banyan_unit_test(topology_test comm/topology_test.c)
banyan_unit_test(merge_test comm/merge_test.c)
banyan_unit_test(schedule_test comm/schedule_test.c)
