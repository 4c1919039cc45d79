# The emulator's own tests.
if(NOT BANYAN_HAS_EMULATOR)
  return()
endif()
foreach(name fault number pipeline runtime warp wgmma)
  banyan_emulated_test(emu_${name}_test emu/${name}_test.cu)
endforeach()
