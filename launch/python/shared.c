/* SPDX-License-Identifier: Apache-2.0 */
/* A source for the shared library that is made of the static one: every library needs one. */
typedef int banyan_python_has_no_code_of_its_own;
