# Text to token ids and back. The reference: -DBANYAN_REFERENCE_PYTHON names a Python that has `tokenizers`.
banyan_test_program(text_test launch/text_test.c)
target_link_libraries(text_test PRIVATE banyan_launch)
add_test(NAME text_test COMMAND text_test ${CMAKE_CURRENT_LIST_DIR}/tokenizers)
set_tests_properties(text_test PROPERTIES LABELS unit TIMEOUT 120)
if(TARGET banyan_program)
  add_test(NAME tokenize COMMAND ${CMAKE_CURRENT_LIST_DIR}/tokenize.sh $<TARGET_FILE:banyan_program>
                                 ${CMAKE_CURRENT_LIST_DIR}/tokenizers)
  set_tests_properties(tokenize PROPERTIES LABELS smoke TIMEOUT 60)
endif()
if(TARGET banyan_program)
  add_test(NAME tokenizer_reference
    COMMAND ${BANYAN_REFERENCE_PYTHON} ${CMAKE_CURRENT_LIST_DIR}/../reference/tokenizer_reference.py
            $<TARGET_FILE:banyan_program>)
  set_tests_properties(tokenizer_reference PROPERTIES LABELS reference SKIP_RETURN_CODE 77 TIMEOUT 900)
endif()
banyan_unit_test(sample_test launch/sample_test.c)
target_link_libraries(sample_test PRIVATE banyan_launch)
# Of the last run of launch/smollm, if there was one.
if(TARGET banyan_program AND BANYAN_HAS_MPI)
  add_test(NAME smollm_reference
    COMMAND ${BANYAN_REFERENCE_PYTHON} ${CMAKE_CURRENT_LIST_DIR}/../reference/smollm_reference.py
            $<TARGET_FILE:banyan_program> ${test_mpirun} ${PROJECT_SOURCE_DIR}/smollm-out)
  set_tests_properties(smollm_reference PROPERTIES LABELS reference SKIP_RETURN_CODE 77 TIMEOUT 1800
                                                   PROCESSORS 2)
endif()
