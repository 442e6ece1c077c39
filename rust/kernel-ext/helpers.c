// SPDX-License-Identifier: GPL-2.0
/*
 * What takes C: fields of structures, and inline functions, that kernel::bindings does not know. As rust/helpers does.
 */
#include <linux/fs.h>
#include <linux/kvm_host.h>

bool rust_helper_kvm_vcpu_is_wanted(const struct file *file);

/* Whether KVM has been asked to make the vCPU of an open file look: for an interrupt, a timer, an NMI, an SMI, or INIT. */
bool rust_helper_kvm_vcpu_is_wanted(const struct file *file)
{
	const struct kvm_vcpu *vcpu = file->private_data;
	const u64 wanted = BIT_ULL(KVM_REQ_UNBLOCK & KVM_REQUEST_MASK) | BIT_ULL(KVM_REQ_EVENT & KVM_REQUEST_MASK) |
			   BIT_ULL(KVM_REQ_NMI & KVM_REQUEST_MASK) | BIT_ULL(KVM_REQ_SMI & KVM_REQUEST_MASK);

	return READ_ONCE(vcpu->requests) & wanted;
}
