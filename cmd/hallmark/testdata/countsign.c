/* A PKCS#11 library that is another one and writes down what it is asked to sign.
 *
 * cc -shared -fPIC -DREAL='"/usr/lib/softhsm/libsofthsm2.so"' -DCOUNT='"/tmp/count"' -o countsign.so countsign.c -ldl
 *
 * COUNT gets a line for each call: "init", or "sign" with the octets in
 * hexadecimal. Every other function is the real library's own.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

typedef unsigned long CK_ULONG;

/* CK_FUNCTION_LIST of PKCS #11 v2.40: a version, then 68 functions in the order
 * of the standard. */
enum { SIGN_INIT = 42, SIGN = 43, SIGN_UPDATE = 44, SIGN_RECOVER = 47, FUNCTIONS = 68 };
typedef struct {
	unsigned char version[2];
	void *function[FUNCTIONS];
} list;

static list ours, *real;

static void note(const char *what, const unsigned char *data, CK_ULONG n)
{
	char line[1024];
	size_t at = (size_t)snprintf(line, sizeof line, "%s ", what);
	for (CK_ULONG i = 0; i < n && at + 4 < sizeof line; i++)
		at += (size_t)snprintf(line + at, sizeof line - at, "%02x", data[i]);
	line[at++] = '\n';
	FILE *f = fopen(COUNT, "a");
	if (!f)
		return;
	fwrite(line, 1, at, f);
	fclose(f);
}

static CK_ULONG sign_init(CK_ULONG session, void *mechanism, CK_ULONG key)
{
	note("init", 0, 0);
	return ((CK_ULONG(*)(CK_ULONG, void *, CK_ULONG))real->function[SIGN_INIT])(session, mechanism, key);
}

static CK_ULONG sign(CK_ULONG session, unsigned char *data, CK_ULONG n, unsigned char *sig, CK_ULONG *size)
{
	note(sig ? "sign" : "size", data, n); /* without a place for it, only the length is asked */
	return ((CK_ULONG(*)(CK_ULONG, unsigned char *, CK_ULONG, unsigned char *, CK_ULONG *))real->function[SIGN])(session, data, n, sig, size);
}

static CK_ULONG sign_update(CK_ULONG session, unsigned char *data, CK_ULONG n)
{
	note("update", data, n);
	return ((CK_ULONG(*)(CK_ULONG, unsigned char *, CK_ULONG))real->function[SIGN_UPDATE])(session, data, n);
}

static CK_ULONG sign_recover(CK_ULONG session, unsigned char *data, CK_ULONG n, unsigned char *sig, CK_ULONG *size)
{
	note("recover", data, n);
	return ((CK_ULONG(*)(CK_ULONG, unsigned char *, CK_ULONG, unsigned char *, CK_ULONG *))real->function[SIGN_RECOVER])(session, data, n, sig, size);
}

CK_ULONG C_GetFunctionList(list **out)
{
	if (!real) {
		void *lib = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
		CK_ULONG (*get)(list **) = lib ? (CK_ULONG(*)(list **))dlsym(lib, "C_GetFunctionList") : 0;
		if (!get || get(&real))
			return 5; /* CKR_GENERAL_ERROR */
		memcpy(&ours, real, sizeof ours);
		ours.function[3] = (void *)C_GetFunctionList;
		ours.function[SIGN_INIT] = (void *)sign_init;
		ours.function[SIGN] = (void *)sign;
		ours.function[SIGN_UPDATE] = (void *)sign_update;
		ours.function[SIGN_RECOVER] = (void *)sign_recover;
	}
	*out = &ours;
	return 0;
}
