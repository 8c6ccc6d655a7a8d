# Kernels: the reference, the one tester (a library, so that tests of bundles can use it too), the targets of the CPU.
add_library(bitnet_kernel_tester STATIC kernel_tester.cc kernel_tester_attention.cc kernel_tester_dense.cc
  kernel_tester_head.cc kernel_tester_support.cc
  ternary_problem.cc)
target_link_libraries(bitnet_kernel_tester PUBLIC bitnet_runtime PRIVATE bitnet_options bitnet_reference)

bitnet_add_test(reference_test reference_test.cc LINK bitnet_reference)
bitnet_add_test(kernel_test kernel_test.cc kernel_test_dense.cc LINK bitnet_kernel_tester)
bitnet_add_test(isa_test isa_test.cc)
bitnet_add_test(layout_test layout_test.cc)
bitnet_add_test(layout_tl_test layout_tl_test.cc)

# Nothing but the record of kernels leaves the unit built with ISA flags; and the check refuses an object that breaks it.
if(TARGET bitnet_builtin_avx2)
  add_test(NAME isa_symbols_test
           COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/isa_symbols.sh" "${CMAKE_NM}" $<TARGET_OBJECTS:bitnet_builtin_avx2>
                   bitnet::builtin::kAvx2Family xsimd_avx2)
  add_library(isa_symbols_broken OBJECT isa_symbols_broken.cc)
  target_link_libraries(isa_symbols_broken PRIVATE bitnet_options)
  add_test(NAME isa_symbols_broken_test
           COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/isa_symbols.sh" "${CMAKE_NM}" $<TARGET_OBJECTS:isa_symbols_broken>
                   bitnet::builtin::kAvx2Family xsimd_avx2)
  set_tests_properties(isa_symbols_broken_test PROPERTIES
    PASS_REGULAR_EXPRESSION "defines symbols that the linker may share.*shared_inline")
endif()

# bitnet_add_emulated_tests(CPU targets): the kernel and target tests once more on an emulated CPU, which faults on every
# instruction that the named CPU lacks. `targets` is what the probe must find.
find_program(BITNET_QEMU_X86_64 qemu-x86_64)
function(bitnet_add_emulated_tests cpu targets)
  foreach(test kernel_test isa_test)
    if(NOT BITNET_QEMU_X86_64)
      add_test(NAME ${test}_${cpu} COMMAND sh -c "echo SKIPPED: qemu-x86_64 is not installed; exit 77")
    elseif(BITNET_SANITIZE)
      add_test(NAME ${test}_${cpu} COMMAND sh -c "echo SKIPPED: AddressSanitizer does not run under qemu-user; exit 77")
    else()
      add_test(NAME ${test}_${cpu} COMMAND "${BITNET_QEMU_X86_64}" -cpu ${cpu} $<TARGET_FILE:${test}>)
    endif()
    set_tests_properties(${test}_${cpu} PROPERTIES SKIP_RETURN_CODE 77 ENVIRONMENT
      "BITNET_TEST_QUICK=1;BITNET_TEST_EMULATOR=qemu-x86_64 -cpu ${cpu};BITNET_TEST_EXPECT_ISAS=${targets}")
  endforeach()
endfunction()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  bitnet_add_emulated_tests(Haswell "scalar avx2")
  bitnet_add_emulated_tests(Nehalem "scalar")
endif()
