# Install and export: find_package(bitnet) gives bitnet::runtime; headers are included as "runtime/...".
include(CMakePackageConfigHelpers)

set_target_properties(bitnet_runtime PROPERTIES EXPORT_NAME runtime)
set(bitnet_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/bitnet")
install(TARGETS bitnet_runtime bitnet_reference bitnet_options EXPORT bitnetTargets
        ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(TARGETS bitnet RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
if(TARGET bitnet-codegen)
  install(TARGETS bitnet-codegen bitnet-halide RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
endif()
install(FILES "${PROJECT_SOURCE_DIR}/models/default.gguf" DESTINATION "${CMAKE_INSTALL_DATADIR}/bitnet")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/runtime" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/bitnet"
        FILES_MATCHING PATTERN "*.h" PATTERN "*.def")
install(EXPORT bitnetTargets NAMESPACE bitnet:: DESTINATION "${bitnet_package_dir}")
configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/bitnetConfig.cmake.in"
                              "${PROJECT_BINARY_DIR}/bitnetConfig.cmake" INSTALL_DESTINATION "${bitnet_package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/bitnetConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/bitnetConfig.cmake" "${PROJECT_BINARY_DIR}/bitnetConfigVersion.cmake"
        DESTINATION "${bitnet_package_dir}")
