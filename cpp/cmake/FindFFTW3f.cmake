# Finds the single-precision FFTW 3 and offers it as FFTW3f::FFTW3f. Look elsewhere with FFTW3f_ROOT.
find_path(FFTW3f_INCLUDE_DIR fftw3.h)
find_library(FFTW3f_LIBRARY NAMES fftw3f libfftw3f-3)
mark_as_advanced(FFTW3f_INCLUDE_DIR FFTW3f_LIBRARY)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
    FFTW3f
    REQUIRED_VARS FFTW3f_LIBRARY FFTW3f_INCLUDE_DIR
    REASON_FAILURE_MESSAGE "install libfftw3-dev (Debian), fftw-devel (Fedora) or fftw (Homebrew, conda-forge), or set FFTW3f_ROOT"
)
if(FFTW3f_FOUND AND NOT TARGET FFTW3f::FFTW3f)
    add_library(FFTW3f::FFTW3f UNKNOWN IMPORTED)
    set_target_properties(
        FFTW3f::FFTW3f
        PROPERTIES IMPORTED_LOCATION "${FFTW3f_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${FFTW3f_INCLUDE_DIR}"
    )
endif()
