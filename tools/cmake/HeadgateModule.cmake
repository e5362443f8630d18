# headgate_module(<name> SOURCES ... [DEPS <module>...] [LIBS <target>...])
#
# One static library per folder of src/. DEPS are the modules it may include
# (the arrows that tests/lint/layers checks); LIBS are third-party targets.
add_library(headgate_flags INTERFACE)
target_compile_options(headgate_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion
  -Wold-style-cast -Wnon-virtual-dtor -Woverloaded-virtual -Wundef -Wvla
  $<$<CXX_COMPILER_ID:GNU>:-Wduplicated-cond -Wlogical-op>
  $<$<CXX_COMPILER_ID:Clang>:-Wthread-safety>
  $<$<BOOL:${HG_WERROR}>:-Werror>)
target_compile_definitions(headgate_flags INTERFACE _GNU_SOURCE _GLIBCXX_ASSERTIONS
  HG_VERSION="${PROJECT_VERSION}")
target_include_directories(headgate_flags INTERFACE
  ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR})
if(HG_SANITIZE)
  add_compile_options(-fsanitize=${HG_SANITIZE} -fno-sanitize-recover=all
                      -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${HG_SANITIZE})
endif()

function(headgate_module name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;LIBS" ${ARGN})
  add_library(headgate_${name} STATIC ${ARG_SOURCES})
  list(TRANSFORM ARG_DEPS PREPEND headgate_)
  target_link_libraries(headgate_${name}
    PUBLIC headgate_flags ${ARG_DEPS} ${ARG_LIBS})
endfunction()
