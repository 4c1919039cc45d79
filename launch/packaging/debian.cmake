# Debian packages, of a build with -DBUILD_SHARED_LIBS=ON -DCMAKE_INSTALL_PREFIX=/usr: `cpack -G DEB`
# makes libbanyan0.1, libbanyan-dev and banyan. dpkg-shlibdeps finds what they depend on.
set(CPACK_PACKAGE_NAME banyan)
set(CPACK_PACKAGE_VENDOR banyan)
set(CPACK_PACKAGE_CONTACT "The banyan developers <banyan@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "exact attention over a key/value cache spread across many ranks")
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_COMPONENTS_ALL library development program)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${PROJECT_BINARY_DIR}
                                                ${PROJECT_BINARY_DIR}/python/banyan)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_NAME libbanyan${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
set(CPACK_DEBIAN_LIBRARY_DESCRIPTION "distributed attention, the library")
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME libbanyan-dev)
set(CPACK_DEBIAN_DEVELOPMENT_DESCRIPTION "distributed attention, headers")
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS
    "libbanyan${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR} (= ${PROJECT_VERSION})")
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_RECOMMENDS "libopenmpi-dev, pkg-config")
set(CPACK_DEBIAN_PROGRAM_PACKAGE_NAME banyan)
set(CPACK_DEBIAN_PROGRAM_DESCRIPTION "distributed attention, the program")
set(CPACK_DEBIAN_PROGRAM_PACKAGE_DEPENDS
    "libbanyan${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR} (= ${PROJECT_VERSION})")
set(CPACK_DEBIAN_PROGRAM_PACKAGE_RECOMMENDS "openmpi-bin, gnuplot-nox")
include(CPack)
