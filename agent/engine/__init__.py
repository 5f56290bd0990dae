"""The SNMP engine: transports, message processing on pysnmp, access control, command responder."""
