# The kernels of a bundle file through the tester: natively for every target, and on emulated CPUs that have exactly a
# target's instructions. The model has odd shapes: N = 200 and 296 end within a tile, K = 148 within a line.
bitnet_add_test(bundle_kernel_test bundle_kernel_test.cc LINK bitnet_kernel_tester)
set(bitnet_odd_model "${CMAKE_CURRENT_BINARY_DIR}/odd_shapes.gguf")
set(bitnet_odd_bundle "${CMAKE_CURRENT_BINARY_DIR}/odd_shapes.bnk")
add_test(NAME bundle_kernel_model COMMAND bitnet synth --shape 1x160x148x8/1x300 --seed 1 -q -o "${bitnet_odd_model}")
set_tests_properties(bundle_kernel_model PROPERTIES FIXTURES_SETUP bitnet_odd_model)
add_test(NAME bundle_kernel_bundle COMMAND bitnet-codegen --model "${bitnet_odd_model}" -o "${bitnet_odd_bundle}"
         --target scalar --target avx2 --target avx512)
set_tests_properties(bundle_kernel_bundle PROPERTIES FIXTURES_REQUIRED bitnet_odd_model
                     FIXTURES_SETUP bitnet_odd_bundle)
add_dependencies(bundle_kernel_test bitnet bitnet-codegen)
set_tests_properties(bundle_kernel_test PROPERTIES FIXTURES_REQUIRED bitnet_odd_bundle
                     ENVIRONMENT "BITNET_TEST_BUNDLE=${bitnet_odd_bundle}")

function(bitnet_add_emulated_bundle_test cpu targets)
  set(name bundle_kernel_test_${cpu})
  if(NOT BITNET_QEMU_X86_64)
    add_test(NAME ${name} COMMAND sh -c "echo SKIPPED: qemu-x86_64 is not installed; exit 77")
  elseif(BITNET_SANITIZE)
    add_test(NAME ${name} COMMAND sh -c "echo SKIPPED: AddressSanitizer does not run under qemu-user; exit 77")
  else()
    add_test(NAME ${name} COMMAND "${BITNET_QEMU_X86_64}" -cpu ${cpu} $<TARGET_FILE:bundle_kernel_test>)
    set_tests_properties(${name} PROPERTIES FIXTURES_REQUIRED bitnet_odd_bundle)
  endif()
  set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 ENVIRONMENT
    "BITNET_TEST_BUNDLE=${bitnet_odd_bundle};BITNET_TEST_QUICK=1;BITNET_TEST_EMULATOR=qemu-x86_64 -cpu ${cpu};BITNET_TEST_EXPECT_ISAS=${targets}")
endfunction()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  bitnet_add_emulated_bundle_test(Haswell "scalar avx2")
  bitnet_add_emulated_bundle_test(Nehalem "scalar")
  bitnet_add_emulated_bundle_test(qemu64 "scalar")
endif()
