// Every PowerShell script that higgs runs on Windows, whole: written from Microsoft's documentation, and never run there yet.
//
// `$p` is the object of the parameters (powershell.ts). Sources are at learn.microsoft.com/powershell/module/<module>/<command>; the
// modules are NetTCPIP, NetSecurity, DnsClient, and Microsoft.PowerShell.*; Windows 8 and Server 2012 have them all.

export type WindowsScript = keyof typeof WINDOWS_SCRIPTS;

export const WINDOWS_SCRIPTS = {
  /** Get-NetIPInterface, Get-NetRoute, Get-NetIPAddress: `-PolicyStore ActiveStore` is what is in force (each one's -PolicyStore). */
  "read-network": `$interfaces = @(Get-NetIPInterface -PolicyStore ActiveStore | ForEach-Object { @{
  index = [int]$_.InterfaceIndex; alias = "$($_.InterfaceAlias)"; family = "$($_.AddressFamily)"; metric = [int]$_.InterfaceMetric
  mtu = [long]$_.NlMtu; forwarding = "$($_.Forwarding)"; connected = "$($_.ConnectionState)" } })
$routes = @(Get-NetRoute -PolicyStore ActiveStore | ForEach-Object { @{
  index = [int]$_.InterfaceIndex; prefix = "$($_.DestinationPrefix)"; nextHop = "$($_.NextHop)"; metric = [int]$_.RouteMetric } })
$addresses = @(Get-NetIPAddress -PolicyStore ActiveStore | ForEach-Object { @{
  index = [int]$_.InterfaceIndex; address = "$($_.IPAddress)"; prefixLength = [int]$_.PrefixLength
  origin = "$($_.SuffixOrigin)"; state = "$($_.AddressState)" } })
@{ interfaces = $interfaces; routes = $routes; addresses = $addresses } | ConvertTo-Json -Depth 4 -Compress`,

  /**
   * Get-NetFirewallRule (-PolicyStore ActiveStore: local rules and those of group policy as they apply), Get-NetFirewallProfile. All rules
   * are read and ours picked out: asked for a group that has none, the command fails, as it does when it may not read.
   */
  "read-firewall": `$rules = @(Get-NetFirewallRule -PolicyStore ActiveStore | Where-Object { $_.Group -eq $p.group } | ForEach-Object { @{
  name = "$($_.Name)"; enabled = "$($_.Enabled)"; direction = "$($_.Direction)"; action = "$($_.Action)" } })
$own = @{}
Get-NetFirewallProfile -PolicyStore PersistentStore | ForEach-Object { $own["$($_.Name)"] = $_ }
$profiles = @(Get-NetFirewallProfile -PolicyStore ActiveStore | ForEach-Object { @{
  name = "$($_.Name)"; enabled = "$($_.Enabled)"; outbound = "$($_.DefaultOutboundAction)"
  ownEnabled = "$($own["$($_.Name)"].Enabled)"; ownOutbound = "$($own["$($_.Name)"].DefaultOutboundAction)"
  localRules = "$($_.AllowLocalFirewallRules)"; without = @($_.DisabledInterfaceAliases | ForEach-Object { "$_" }) } })
@{ rules = $rules; profiles = $profiles } | ConvertTo-Json -Depth 4 -Compress`,

  /** New-NetFirewallRule: -Name, -Group, -Profile Any; addresses may be ranges "a-b", ports too. What is not said is "any". */
  "add-firewall-rules": `foreach ($rule in $p.rules) {
  $a = @{ PolicyStore = 'PersistentStore'; Group = $p.group; Profile = 'Any'; Enabled = 'True' }
  foreach ($key in 'Name', 'DisplayName', 'Direction', 'Action', 'Program', 'Protocol', 'LocalAddress', 'RemoteAddress', 'LocalPort', 'RemotePort', 'IcmpType') {
    if ($null -ne $rule.$key) { $a[$key] = $rule.$key }
  }
  New-NetFirewallRule @a | Out-Null
}`,

  /**
   * Remove-NetFirewallRule -InputObject, each at a time: without a parameter it takes away every rule of the machine, and a -Name may be a
   * pattern. Says how many there were.
   */
  "remove-firewall-rules": `$rules = @(Get-NetFirewallRule -PolicyStore PersistentStore | Where-Object { ($_.Group -eq $p.group) -and ($p.names -contains $_.Name) })
foreach ($rule in $rules) { Remove-NetFirewallRule -InputObject $rule }
@{ count = $rules.Count } | ConvertTo-Json -Compress`,

  /** As above, for all of a group. */
  "remove-firewall-group": `$rules = @(Get-NetFirewallRule -PolicyStore PersistentStore | Where-Object { $_.Group -eq $p.group })
foreach ($rule in $rules) { Remove-NetFirewallRule -InputObject $rule }
@{ count = $rules.Count } | ConvertTo-Json -Compress`,

  /** Set-NetFirewallProfile: -Enabled True | False | NotConfigured, -DefaultOutboundAction Allow | Block | NotConfigured. */
  "set-firewall-profiles": `foreach ($one in $p.profiles) {
  Set-NetFirewallProfile -PolicyStore PersistentStore -Name $one.name -Enabled $one.enabled -DefaultOutboundAction $one.outbound
}`,

  /** Get-DnsClientNrptRule (told by -Comment, which only we write), Get-DnsClientServerAddress. */
  "read-dns": `$rules = @(Get-DnsClientNrptRule | Where-Object { $_.Comment -eq $p.comment } | ForEach-Object { @{
  name = "$($_.Name)"; namespaces = @($_.Namespace | ForEach-Object { "$_" }); servers = @($_.NameServers | ForEach-Object { "$_" }) } })
$servers = @(Get-DnsClientServerAddress -InterfaceAlias $p.interface -ErrorAction SilentlyContinue | ForEach-Object { $_.ServerAddresses } | ForEach-Object { "$_" })
@{ rules = $rules; servers = $servers } | ConvertTo-Json -Depth 4 -Compress`,

  /** Add-DnsClientNrptRule: namespace "." is every name. Clear-DnsClientCache: answers of before must not be given again. */
  "add-dns-rule": `Add-DnsClientNrptRule -Namespace '.' -NameServers $p.servers -Comment $p.comment
Clear-DnsClientCache`,

  /** Remove-DnsClientNrptRule -Name -Force. Says how many there were. */
  "remove-dns-rules": `$rules = @(Get-DnsClientNrptRule | Where-Object { $_.Comment -eq $p.comment })
foreach ($rule in $rules) { Remove-DnsClientNrptRule -Name $rule.Name -Force }
if ($rules.Count -gt 0) { Clear-DnsClientCache }
@{ count = $rules.Count } | ConvertTo-Json -Compress`,

  /** Get-Service: Status is Stopped, StartPending, StopPending, Running or Paused (ServiceControllerStatus). */
  "read-service": `$service = Get-Service -Name $p.name -ErrorAction SilentlyContinue
@{ state = $(if ($null -eq $service) { 'Absent' } else { "$($service.Status)" }) } | ConvertTo-Json -Compress`,

  /** Get-Process: StartTime; Get-CimInstance Win32_OperatingSystem: LastBootUpTime, which moves with the clock. Ticks are 100 ns. */
  "read-process": `$process = Get-Process -Id $p.pid -ErrorAction SilentlyContinue
$boot = (Get-CimInstance -ClassName Win32_OperatingSystem).LastBootUpTime
@{ started = $(if ($null -eq $process) { '' } else { "$($process.StartTime.ToUniversalTime().Ticks)" }); booted = "$($boot.ToUniversalTime().Ticks)" } | ConvertTo-Json -Compress`,

  /** Get-CimInstance Win32_Process: ProcessId, CommandLine. */
  "list-processes": `$found = @(Get-CimInstance -ClassName Win32_Process -Filter "Name = 'higgs.exe'" | ForEach-Object { @{ pid = [int]$_.ProcessId; line = "$($_.CommandLine)" } })
@{ processes = $found } | ConvertTo-Json -Depth 3 -Compress`,

  /** WindowsPrincipal.IsInRole(WindowsBuiltInRole.Administrator): .NET; true only for an elevated process. */
  "read-privileges": `$me = New-Object Security.Principal.WindowsPrincipal([Security.Principal.WindowsIdentity]::GetCurrent())
@{ elevated = $me.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator) } | ConvertTo-Json -Compress`,
} as const;
