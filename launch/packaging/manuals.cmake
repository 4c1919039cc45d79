# Manual pages from the text of --help: banyan(1), and banyan-VERB(1) of each verb.
if(NOT TARGET banyan_program OR CMAKE_CROSSCOMPILING)
  return()
endif()
set(manuals ${PROJECT_BINARY_DIR}/man)
add_custom_command(
  OUTPUT ${manuals}/banyan.1
  COMMAND ${CMAKE_CURRENT_LIST_DIR}/manuals $<TARGET_FILE:banyan_program> ${manuals}
  DEPENDS banyan_program ${CMAKE_CURRENT_LIST_DIR}/manuals VERBATIM)
add_custom_target(banyan_manuals ALL DEPENDS ${manuals}/banyan.1)
install(DIRECTORY ${manuals}/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT program
        FILES_MATCHING PATTERN "*.1")
