# Finds cuFFT and offers it as CuFFT::CuFFT. Look elsewhere with CuFFT_ROOT: a CUDA toolkit, or the folder of the wheel
# nvidia-cufft (site-packages/nvidia/cufft or site-packages/nvidia/cu13).
find_path(CuFFT_INCLUDE_DIR cufft.h HINTS ${CUDAToolkit_INCLUDE_DIRS} PATH_SUFFIXES include)
find_library(
    CuFFT_LIBRARY
    NAMES cufft libcufft.so.12 libcufft.so.11
    HINTS "${CUDAToolkit_LIBRARY_DIR}"
    PATH_SUFFIXES lib lib64 lib/x64 targets/x86_64-linux/lib
)
mark_as_advanced(CuFFT_INCLUDE_DIR CuFFT_LIBRARY)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
    CuFFT
    REQUIRED_VARS CuFFT_LIBRARY CuFFT_INCLUDE_DIR
    REASON_FAILURE_MESSAGE "install cuFFT with the CUDA toolkit, or the wheel nvidia-cufft, and set CuFFT_ROOT to its folder"
)
if(CuFFT_FOUND AND NOT TARGET CuFFT::CuFFT)
    add_library(CuFFT::CuFFT UNKNOWN IMPORTED)
    set_target_properties(
        CuFFT::CuFFT
        PROPERTIES IMPORTED_LOCATION "${CuFFT_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${CuFFT_INCLUDE_DIR}"
    )
endif()
