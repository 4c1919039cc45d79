banyan_unit_test(error_test comm/error_test.c)
